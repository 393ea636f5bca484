//! Holds a response head that names no media type until the first bytes of the body are there to guess it from. What has
//! come has to do, be it only one byte: who waits for more holds back a stream.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;

use crate::exchange::sniff::{SNIFFED_BYTES, media_type};

/// A response on its way, held from its head to its first bytes. What comes after flows.
#[derive(Default)]
pub(super) struct Guess {
    held: Vec<HttpTask>,
    is_over: bool,
}

impl Guess {
    /// Takes the next parts of the response and gives those that may go to the client now.
    pub(super) fn pass(&mut self, mut tasks: Vec<HttpTask>) -> Vec<HttpTask> {
        if self.is_over {
            return tasks;
        }
        if self.held.is_empty() {
            let Some(at) = tasks.iter().position(is_final_head) else { return tasks };
            if !matches!(&tasks[at], HttpTask::Header(head, false) if lacks_type(head)) {
                self.is_over = true;
                return tasks;
            }
            self.held = tasks.split_off(at);
        } else {
            self.held.append(&mut tasks);
        }
        let beginning = beginning(&self.held);
        if !beginning.is_empty() {
            let guessed = media_type(&beginning);
            if let Some(HttpTask::Header(head, _)) = self.held.first_mut() {
                let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static(guessed));
            }
        } else if !self.held.iter().any(is_end) {
            // Only the head is worth holding.
            self.held.truncate(1);
            return tasks;
        }
        tasks.append(&mut self.release());
        tasks
    }

    /// What is held; nothing is held from now on.
    pub(super) fn release(&mut self) -> Vec<HttpTask> {
        self.is_over = true;
        std::mem::take(&mut self.held)
    }
}

/// Names the type of a body that is there as a whole, unless it has one or must not have one.
pub(in crate::traffic::http) fn name_type(head: &mut ResponseHeader, body: &Bytes) {
    if !body.is_empty() && lacks_type(head) {
        let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static(media_type(body)));
    }
}

/// Whether a type may be guessed: not of what is encoded, whose bytes say nothing of the content.
fn lacks_type(head: &ResponseHeader) -> bool {
    !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !head.headers.contains_key(CONTENT_TYPE)
        && head.headers.get(CONTENT_ENCODING).is_none_or(HeaderValue::is_empty)
}

pub(super) fn is_final_head(task: &HttpTask) -> bool {
    matches!(task, HttpTask::Header(head, _) if !head.status.is_informational())
}

fn is_end(task: &HttpTask) -> bool {
    match task {
        HttpTask::Header(_, end) | HttpTask::Body(_, end) | HttpTask::UpgradedBody(_, end) => *end,
        HttpTask::Trailer(_) | HttpTask::Done | HttpTask::Failed(_) => true,
    }
}

/// The first bytes of the body as far as they have come.
fn beginning(tasks: &[HttpTask]) -> Cow<'_, [u8]> {
    let mut chunks = tasks.iter().filter_map(|task| match task {
        HttpTask::Body(Some(chunk), _) if !chunk.is_empty() => Some(&chunk[..]),
        _ => None,
    });
    let first = chunks.next().unwrap_or_default();
    let mut beginning = Cow::Borrowed(first);
    for chunk in chunks {
        let missing = SNIFFED_BYTES.saturating_sub(beginning.len());
        if missing == 0 {
            break;
        }
        beginning.to_mut().extend_from_slice(&chunk[..chunk.len().min(missing)]);
    }
    beginning
}

#[cfg(test)]
mod tests {
    use pingora::prelude::Error;

    use super::*;

    fn head(status: u16, fields: &[(&'static str, &str)], end: bool) -> HttpTask {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        HttpTask::Header(Box::new(head), end)
    }

    fn body(text: &'static str) -> HttpTask {
        HttpTask::Body(Some(Bytes::from_static(text.as_bytes())), false)
    }

    /// What comes out for what goes in, one word per part.
    fn check(steps: Vec<Vec<HttpTask>>, expected: &[&[&str]]) {
        let mut guess = Guess::default();
        let passed: Vec<Vec<String>> =
            steps.into_iter().map(|tasks| guess.pass(tasks).iter().map(word).collect()).collect();
        assert_eq!(passed, expected);
    }

    fn word(task: &HttpTask) -> String {
        match task {
            HttpTask::Header(head, _) => {
                let named = head.headers.get(CONTENT_TYPE).map_or("-", |value| value.to_str().unwrap());
                format!("{} {named}", head.status.as_u16())
            }
            HttpTask::Body(chunk, end) => {
                let text = String::from_utf8_lossy(chunk.as_deref().unwrap_or_default()).into_owned();
                if *end { format!("{text}.") } else { text }
            }
            other => other.type_str().to_owned(),
        }
    }

    #[test]
    fn waits_for_the_first_bytes() {
        check(
            vec![
                vec![head(200, &[], false)],
                vec![body("")],
                vec![body("<html>")],
                vec![body("a")],
                vec![HttpTask::Done],
            ],
            &[&[], &[], &["200 text/html; charset=utf-8", "<html>"], &["a"], &["Done"]],
        );
        check(
            vec![
                vec![head(103, &[], false)],
                vec![head(100, &[], false), head(200, &[], false), body("<ht"), body("ml>")],
            ],
            &[&["103 -"], &["100 -", "200 text/html; charset=utf-8", "<ht", "ml>"]],
        );
    }

    #[test]
    fn leaves_alone_what_has_a_type_or_no_body() {
        for fields in [&[("Content-Type", "a/b")][..], &[("Content-Encoding", "gzip"), ("Content-Type", "a/b")]] {
            check(vec![vec![head(200, fields, false)], vec![body("<html>")]], &[&["200 a/b"], &["<html>"]]);
        }
        check(vec![vec![head(200, &[("Content-Encoding", "gzip")], false)]], &[&["200 -"]]);
        check(vec![vec![head(200, &[], true)]], &[&["200 -"]]);
        check(vec![vec![head(204, &[], false)], vec![HttpTask::Done]], &[&["204 -"], &["Done"]]);
        check(vec![vec![head(304, &[], false)]], &[&["304 -"]]);
    }

    #[test]
    fn an_end_without_bytes_lets_the_head_go() {
        let ends = [
            HttpTask::Done,
            HttpTask::Trailer(None),
            HttpTask::Body(None, true),
            HttpTask::Failed(Error::new_str("x")),
        ];
        for end in ends {
            let name = word(&end);
            check(vec![vec![head(200, &[], false)], vec![end]], &[&[], &["200 -", &name]]);
        }
        check(vec![vec![HttpTask::Failed(Error::new_str("x"))]], &[&["Failed"]]);
    }

    #[test]
    fn what_is_left_is_released_once() {
        let mut guess = Guess::default();
        assert!(guess.pass(vec![head(200, &[], false)]).is_empty());
        assert_eq!((guess.release().len(), guess.release().len()), (1, 0));
    }
}
