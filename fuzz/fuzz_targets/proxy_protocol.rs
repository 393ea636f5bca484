//! PROXY headers, however they are cut: bytes that come later change no verdict, and a header is as long as it says.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/traffic/entrypoint/proxy_protocol.rs"]
mod proxy_protocol;

use proxy_protocol::{Header, parse};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    for cut in 0..input.len().min(300) {
        match parse(&input[..cut]) {
            Header::Partial => {}
            early => assert_eq!(early, whole, "cut at {cut}"),
        }
    }
    if let Header::Present { bytes, addresses } = whole {
        assert!(bytes <= input.len() && bytes <= 4096);
        assert_eq!(parse(&input[..bytes]), whole, "what follows is not looked at");
        if let Some((from, to)) = addresses {
            assert_eq!(from.is_ipv4(), to.is_ipv4());
        }
    }
});
