//! Reading several things of which each may be wrong: whoever mends one mistake should not be told of the next one only then.

use super::{Problem, Problems};

/// Most problems that are told of one list. Whoever has more has one cause for all of them.
const LIST_LIMIT: usize = 1000;

/// Several results, of which each may be of another type.
pub trait Results {
    /// What they hold when all went well.
    type Values;

    /// All values, or all that is wrong.
    ///
    /// # Errors
    /// The problems of each result, in order.
    fn gather(self) -> Result<Self::Values, Problems>;
}

/// All values of a tuple of results, or all that is wrong with any of them.
///
/// # Errors
/// The problems of each result, in order.
pub fn all<R: Results>(results: R) -> Result<R::Values, Problems> {
    results.gather()
}

/// The values of any number of results, or all that is wrong with any of them.
///
/// # Errors
/// The problems of each result, in order.
pub fn each<T, E: Into<Problems>, C: FromIterator<T>>(
    results: impl IntoIterator<Item = Result<T, E>>,
) -> Result<C, Problems> {
    let mut problems = Problems::new();
    let mut values = Vec::new();
    for result in results {
        values.extend(problems.keep(result));
        if problems.len() >= LIST_LIMIT {
            break;
        }
    }
    if problems.is_empty() { Ok(values.into_iter().collect()) } else { Err(problems) }
}

/// A problem if there is one.
///
/// # Errors
/// That problem.
pub fn refuse(is_wrong: bool, problem: impl FnOnce() -> Problem) -> Result<(), Problem> {
    if is_wrong { Err(problem()) } else { Ok(()) }
}

impl Problems {
    /// The value; or nothing, and what is wrong is among the problems.
    pub fn keep<T>(&mut self, result: Result<T, impl Into<Self>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problems) => {
                self.extend(problems.into());
                None
            }
        }
    }

    /// Puts `prefix` before each path, as [`Problem::under`] does.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        self.into_iter().map(|problem| problem.under(prefix)).collect()
    }
}

macro_rules! tuples {
    ($($value:ident $error:ident $result:ident),+) => {
        impl<$($value, $error: Into<Problems>),+> Results for ($(Result<$value, $error>,)+) {
            type Values = ($($value,)+);

            fn gather(self) -> Result<Self::Values, Problems> {
                let ($($result,)+) = self;
                let mut problems = Problems::new();
                let ($($result,)+) = ($(problems.keep($result),)+);
                match ($($result,)+) {
                    ($(Some($result),)+) => Ok(($($result,)+)),
                    _ => Err(problems),
                }
            }
        }
    };
}
tuples!(A0 E0 a, A1 E1 b);
tuples!(A0 E0 a, A1 E1 b, A2 E2 c);
tuples!(A0 E0 a, A1 E1 b, A2 E2 c, A3 E3 d);
tuples!(A0 E0 a, A1 E1 b, A2 E2 c, A3 E3 d, A4 E4 e);
tuples!(A0 E0 a, A1 E1 b, A2 E2 c, A3 E3 d, A4 E4 e, A5 E5 f);

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(path: &str) -> Problem {
        Problem::at(path, "is odd")
    }

    fn paths(problems: &Problems) -> Vec<&str> {
        problems.iter().map(|problem| &*problem.path).collect()
    }

    #[test]
    fn each_mistake_is_told_and_values_come_only_without_any() {
        assert_eq!(all((Ok::<_, Problem>(1), Ok::<_, Problems>("a"))), Ok((1, "a")));
        let found = all((Err::<(), _>(odd("a")), Ok::<_, Problem>(1), Err::<u8, _>(Problems::from(odd("b")))));
        assert_eq!(paths(&found.unwrap_err()), ["a", "b"]);
        let found = each::<_, _, Vec<_>>([Ok(1), Err(odd("[1]")), Ok(3), Err(odd("[3]"))]);
        assert_eq!(paths(&found.unwrap_err().under("many")), ["many[1]", "many[3]"]);
        assert_eq!(each::<_, Problem, Vec<_>>([Ok(1), Ok(2)]), Ok(vec![1, 2]));
        let endless = std::iter::repeat_with(|| Err::<u8, _>(odd("[0]")));
        assert_eq!(each::<_, _, Vec<_>>(endless).unwrap_err().len(), LIST_LIMIT);
        assert!(refuse(false, || odd("a")).is_ok() && refuse(true, || odd("a")).is_err());
    }
}
