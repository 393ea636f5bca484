//! What a client says before anything is encrypted, however it is cut: bytes that come later change no verdict.
#![no_main]
#![allow(dead_code, reason = "the reader has more than is called here")]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/tls/client_hello.rs"]
mod client_hello;

use client_hello::{Reading, read};

/// Most places where an input is cut: the time for one input is bounded.
const CUTS: usize = 64;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    let step = input.len().div_ceil(CUTS).max(1);
    for cut in (0..input.len()).step_by(step) {
        match read(&input[..cut]) {
            Reading::Partial => {}
            // Known early: it stays so.
            early => assert_eq!(early, whole, "cut at {cut}"),
        }
    }
    if let Reading::Whole(hello) = &whole {
        let more = [input, &[0xff; 9]].concat();
        assert_eq!(read(&more), whole, "what follows is not looked at");
        if let Some(name) = &hello.server_name {
            assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
            assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase() && byte > b' ' && byte < 0x7f), "{name:?}");
        }
        assert!(hello.protocols.iter().all(|protocol| (1..256).contains(&protocol.len())));
    }
});
