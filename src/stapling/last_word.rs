//! What an authority has said last of a certificate. Answers come over plain HTTP: a cache, or somebody in between, may show an
//! older one again for as long as it holds, and that takes nothing back. Touches neither clock nor network.

use crate::tls::ocsp::Verdict;

/// The newest answer that was believed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastWord(Option<Word>);

#[derive(Clone, Copy, Debug)]
struct Word {
    /// In seconds of Unix time.
    this_update: i64,
    is_revocation: bool,
}

impl LastWord {
    /// The verdict itself, if it is not from before this one.
    ///
    /// # Errors
    /// A sentence, if it is.
    pub(super) fn heed(self, verdict: Verdict) -> Result<Verdict, String> {
        let (new, Some(known)) = (Word::of(&verdict), self.0) else { return Ok(verdict) };
        if new.this_update < known.this_update {
            let older = known.this_update.saturating_sub(new.this_update);
            Err(format!("the answer is {older} s older than one that was given before"))
        } else if new.this_update == known.this_update && known.is_revocation && !new.is_revocation {
            Err("the answer is no newer than one that tells of a revocation".to_owned())
        } else {
            Ok(verdict)
        }
    }

    /// From now on it is this one.
    pub(super) fn is(&mut self, verdict: &Verdict) {
        self.0 = Some(Word::of(verdict));
    }
}

impl Word {
    fn of(verdict: &Verdict) -> Self {
        let is_revocation = matches!(verdict, Verdict::Revoked { .. });
        Self { this_update: verdict.answer().this_update, is_revocation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ocsp::Answer;

    #[test]
    fn an_older_answer_takes_nothing_back() {
        let verdict = |(this_update, is_revocation): (i64, bool)| {
            let answer = Answer { der: Box::default(), this_update, next_update: 1000 };
            if is_revocation { Verdict::Revoked { at: 0, answer } } else { Verdict::Good(answer) }
        };
        let (good, revoked) = (|at| (at, false), |at| (at, true));
        for (known, new, expected) in [
            (None, good(i64::MIN), true),
            (Some(good(10)), good(10), true),
            (Some(good(10)), good(9), false),
            (Some(good(10)), revoked(10), true),
            (Some(good(10)), revoked(9), false),
            (Some(revoked(10)), good(9), false),
            (Some(revoked(10)), good(10), false),
            // Certificates may be on hold (RFC 5280 §5.3.1).
            (Some(revoked(10)), good(11), true),
            (Some(revoked(10)), revoked(10), true),
            (Some(revoked(i64::MAX)), good(i64::MIN), false),
        ] {
            let mut last = LastWord::default();
            if let Some(known) = known {
                last.is(&verdict(known));
            }
            assert_eq!(last.heed(verdict(new)).is_ok(), expected, "{known:?} {new:?}");
        }
    }
}
