//! The language of rules: what is read is written so that it is read alike, and mistakes are told where they are.
#![no_main]
#![allow(dead_code, reason = "the parser has more than is called here")]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/rule"]
mod rule {
    pub mod lexer;
    pub mod parser;
    pub mod predicate;

    /// As that of the gateway.
    #[derive(Clone, Debug)]
    pub struct RuleError {
        pub column: usize,
        pub message: String,
        pub help: Option<String>,
    }

    impl RuleError {
        pub fn new(column: usize, message: impl Into<String>) -> Self {
            Self { column, message: message.into(), help: None }
        }

        pub fn with_help(mut self, help: impl Into<String>) -> Self {
            self.help = Some(help.into());
            self
        }
    }
}

use rule::RuleError;
use rule::parser::{Call, parse};
use rule::predicate::Predicate;

/// Every call is taken as it is written.
fn build(call: Call) -> Result<Predicate<String>, RuleError> {
    let arguments: Vec<_> = call.arguments.iter().map(|argument| format!("`{argument}`")).collect();
    Ok(Predicate::Is(format!("{}({})", call.name, arguments.join(", "))))
}

fuzz_target!(|text: &str| {
    match parse(text, &build) {
        Ok(read) => {
            let written = read.to_string();
            // Such a text can be written in double quotes only.
            if !text.contains('"') {
                let again = parse(&written, &build).unwrap_or_else(|errors| panic!("{written}: {errors:?}"));
                assert_eq!(again.to_string(), written);
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let columns = text.chars().count() + 1;
            assert!(errors.iter().all(|error| (1..=columns).contains(&error.column)), "{errors:?}");
        }
    }
});
