//! `chain`, and the middlewares of one router: requests go down, responses come back up.

use std::sync::Arc;

use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{AnyMiddleware, Flow};
use crate::exchange::Exchange;
use crate::units::Name;

/// The `chain` middleware as written. When routers are built, its parts stand in its place.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Names of other middlewares, in the order in which requests pass them.
    #[serde(default)]
    pub middlewares: Vec<Name>,
}

/// One middleware in its place.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its qualified name.
    pub name: Name,
    /// What it does.
    pub middleware: Arc<AnyMiddleware>,
}

/// The middlewares of one router, in order, chains within it flattened.
///
/// A response passes the middlewares that its request has passed, the last one first. A middleware that replies has not passed
/// its request on: its reply goes up through those before it, not through its own response phase.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    steps: Box<[Step]>,
}

impl Chain {
    /// A chain of `steps`.
    pub fn new(steps: impl Into<Box<[Step]>>) -> Self {
        Self { steps: steps.into() }
    }

    /// Its middlewares, in the order in which requests pass them.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Takes a request down, until it has passed all middlewares or one replies.
    ///
    /// `depth` counts those that it has passed, also while this is pending and when it is dropped: the response goes up from there.
    pub async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange, depth: &mut usize) -> Flow {
        *depth = 0;
        for step in &self.steps {
            match step.middleware.on_request(request, exchange).await {
                Flow::Continue => *depth += 1,
                reply @ Flow::Reply(_) => return reply,
            }
        }
        Flow::Continue
    }

    /// Takes a response up, through the first `depth` middlewares, the last of them first.
    pub fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange, depth: usize) {
        for step in self.steps[..depth.min(self.steps.len())].iter().rev() {
            step.middleware.on_response(response, exchange);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::testing::{Call, joined, verdict};
    use super::super::{Kit, Settings};
    use super::*;

    fn chain(steps: &[&str]) -> Chain {
        let step = |(index, json): (usize, &&str)| {
            let settings: Settings = serde_json::from_str(json).unwrap();
            let name = Name::from(format!("m{index}@file"));
            let middleware = Arc::new(AnyMiddleware::build(&settings, &Kit { name: &name }).unwrap());
            Step { name, middleware }
        };
        Chain::new(steps.iter().enumerate().map(step).collect::<Vec<_>>())
    }

    /// Takes a call down and its response up; tells where it went, how deep, and what the response says.
    #[track_caller]
    fn check(steps: &[&str], call: &str, expected: (&str, usize, &str)) {
        let chain = chain(steps);
        let mut call = Call::new(call);
        let mut depth = 9;
        let flow = chain.on_request(&mut call.request, &mut call.exchange, &mut depth).now_or_never().unwrap();
        let mut response = ResponseHeader::build(200, None).unwrap();
        chain.on_response(&mut response, &mut call.exchange, depth);
        let went = if matches!(flow, Flow::Continue) { call.target().to_owned() } else { verdict(&flow) };
        assert_eq!((&*went, depth, &*joined(&response.headers, "x")), expected);
    }

    const A: &str = r#"{"addPrefix":{"prefix":"/a"}}"#;
    const B: &str = r#"{"addPrefix":{"prefix":"/b"}}"#;
    const ONE: &str = r#"{"headers":{"customResponseHeaders":{"x":"1"}}}"#;
    const TWO: &str = r#"{"headers":{"customResponseHeaders":{"x":"2"}}}"#;
    const REFUSE: &str = r#"{"encodedCharacters":{}}"#;

    #[test]
    fn requests_go_down_and_responses_up() {
        check(&[A, B], "GET http://h/", ("/b/a/", 2, ""));
        check(&[B, A], "GET http://h/", ("/a/b/", 2, ""));
        check(&[ONE, TWO], "GET http://h/", ("/", 2, "1"));
        check(&[TWO, ONE], "GET http://h/", ("/", 2, "2"));
        check(&[], "GET http://h/", ("/", 0, ""));
    }

    #[test]
    fn a_reply_goes_up_through_those_before_it() {
        check(&[REFUSE, ONE], "GET http://h/%2F", ("400 encoded-character", 0, ""));
        check(&[ONE, REFUSE, TWO], "GET http://h/%2F", ("400 encoded-character", 1, "1"));
        check(&[ONE, A, REFUSE], "GET http://h/%2F", ("400 encoded-character", 2, "1"));
    }

    #[test]
    fn a_middleware_that_is_used_twice_keeps_both_notes() {
        let mut chain = chain(&[r#"{"headers":{"accessControlAllowOriginListRegex":["."]}}"#]);
        chain.steps = [chain.steps[0].clone(), chain.steps[0].clone()].into();
        let mut call = Call::new("GET http://h/\nOrigin: http://o");
        let mut depth = 0;
        let flow = chain.on_request(&mut call.request, &mut call.exchange, &mut depth).now_or_never().unwrap();
        assert!(matches!(flow, Flow::Continue));
        let mut response = ResponseHeader::build(200, None).unwrap();
        chain.on_response(&mut response, &mut call.exchange, depth);
        assert_eq!(joined(&response.headers, "access-control-allow-origin"), "http://o");
    }

    #[test]
    fn the_way_down_is_one_small_future() {
        let chain = Chain::default();
        let mut call = Call::new("GET http://h/");
        let mut depth = 0;
        // It stands in the future of each request. A middleware whose own future is large boxes it.
        let size = size_of_val(&chain.on_request(&mut call.request, &mut call.exchange, &mut depth));
        assert!(size <= 768, "{size} bytes");
    }
}
