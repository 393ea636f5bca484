//! Tokens → predicate. The grammar is the part of Go's expressions that rules use; `&&` binds tighter than `||`.

use super::RuleError;
use super::lexer::{Lexer, Token};
use super::predicate::Predicate;

/// Longest rule, in bytes.
pub const TEXT_LIMIT_BYTES: usize = 32 * 1024;
/// Most matchers in a rule; every argument of a matcher that takes a list counts as one.
pub const TERM_LIMIT: usize = 1024;
/// Most mistakes that are told of one rule.
const ERROR_LIMIT: usize = 20;
/// Deepest nesting of parentheses and negations.
pub const DEPTH_LIMIT: usize = 64;

/// A call as it is written: `Host(`a`)`.
pub struct Call {
    /// The name, spelled as in the rule.
    pub name: String,
    /// Its strings; at least one, none of them empty.
    pub arguments: Vec<String>,
    /// Where its name starts, in characters, from 1.
    pub column: usize,
}

/// Reads a rule; `build` turns each call into the matchers that it stands for.
///
/// # Errors
/// What is wrong and where: each call that means nothing, up to the place from which on the rule cannot be read.
pub fn parse<M>(
    text: &str,
    build: &dyn Fn(Call) -> Result<Predicate<M>, RuleError>,
) -> Result<Predicate<M>, Vec<RuleError>> {
    if text.len() > TEXT_LIMIT_BYTES {
        return Err(vec![RuleError::new(1, format!("the rule is longer than {TEXT_LIMIT_BYTES} bytes"))]);
    }
    let lexer = Lexer::new(text);
    let mut parser = Parser { lexer, token: Token::End, column: 1, build, terms: 0, depth: 0, errors: Vec::new() };
    match parser.whole() {
        Ok(predicate) if parser.errors.is_empty() => Ok(predicate),
        Ok(_) => Err(parser.errors),
        Err(last) => {
            parser.errors.push(last);
            Err(parser.errors)
        }
    }
}

struct Parser<'t, 'b, M> {
    lexer: Lexer<'t>,
    token: Token,
    column: usize,
    build: &'b dyn Fn(Call) -> Result<Predicate<M>, RuleError>,
    terms: usize,
    depth: usize,
    /// Calls that mean nothing. The rest of the rule is read all the same.
    errors: Vec<RuleError>,
}

impl<M> Parser<'_, '_, M> {
    /// The rule from its first token to its last.
    fn whole(&mut self) -> Result<Predicate<M>, RuleError> {
        self.advance()?;
        if self.token == Token::End {
            return Err(RuleError::new(1, "the rule is empty").with_help("a rule that matches all: PathPrefix(`/`)"));
        }
        let predicate = self.alternatives()?;
        if self.token != Token::End {
            let help = match self.token {
                Token::Close => "there is no `(` for it",
                _ => "join matchers with `&&` or `||`",
            };
            return Err(self.unexpected("`&&`, `||` or the end of the rule").with_help(help));
        }
        Ok(predicate)
    }

    /// Notes a call that means nothing, and stands in for it.
    fn skip(&mut self, error: RuleError) -> Result<Predicate<M>, RuleError> {
        if self.errors.len() + 1 >= ERROR_LIMIT {
            return Err(error);
        }
        self.errors.push(error);
        Ok(Predicate::any(Vec::new()))
    }

    fn advance(&mut self) -> Result<Token, RuleError> {
        let (token, column) = self.lexer.next_token()?;
        self.column = column;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn unexpected(&self, expected: &str) -> RuleError {
        RuleError::new(self.column, format!("expected {expected}, found {}", self.token.describe()))
    }

    /// `a && b || c && d`
    fn alternatives(&mut self) -> Result<Predicate<M>, RuleError> {
        let mut terms = vec![self.conjunction()?];
        while self.token == Token::Or {
            self.advance()?;
            terms.push(self.conjunction()?);
        }
        Ok(Predicate::any(terms))
    }

    /// `a && b`
    fn conjunction(&mut self) -> Result<Predicate<M>, RuleError> {
        let mut terms = vec![self.operand()?];
        while self.token == Token::And {
            self.advance()?;
            terms.push(self.operand()?);
        }
        Ok(Predicate::all(terms))
    }

    /// `a`, `!a` or `(a)`
    fn operand(&mut self) -> Result<Predicate<M>, RuleError> {
        match self.token {
            Token::Not => self.nested(|parser| {
                parser.advance()?;
                parser.operand().map(Predicate::negated)
            }),
            Token::Open => self.nested(|parser| {
                parser.advance()?;
                let inner = parser.alternatives()?;
                if parser.token != Token::Close {
                    return Err(parser.unexpected("`)`, `&&` or `||`"));
                }
                parser.advance()?;
                Ok(inner)
            }),
            Token::Name(_) => self.call(),
            Token::Text(_) => {
                Err(self.unexpected("a matcher").with_help("strings stand in a matcher: Host(`example.com`)"))
            }
            _ => Err(self.unexpected("a matcher like Host(`example.com`)")),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Predicate<M>, RuleError>,
    ) -> Result<Predicate<M>, RuleError> {
        if self.depth == DEPTH_LIMIT {
            return Err(RuleError::new(self.column, format!("the rule nests deeper than {DEPTH_LIMIT} levels")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    /// `Name("a", "b",)`
    fn call(&mut self) -> Result<Predicate<M>, RuleError> {
        let column = self.column;
        let Token::Name(name) = self.advance()? else { return Err(self.unexpected("a matcher")) };
        if self.token != Token::Open {
            return Err(self.unexpected(&format!("`(` after `{name}`")));
        }
        self.advance()?;
        let mut arguments = Vec::new();
        let mut empty = None;
        while self.token != Token::Close {
            if !matches!(self.token, Token::Text(_)) {
                return Err(self.unexpected("a string").with_help(format!("{name}(`…`)")));
            }
            let at = self.column;
            if let Token::Text(text) = self.advance()? {
                if text.is_empty() {
                    empty = empty.or(Some(at));
                }
                arguments.push(text);
            }
            match self.token {
                Token::Comma => {
                    self.advance()?;
                }
                Token::Close => {}
                _ => return Err(self.unexpected("`,` or `)`")),
            }
        }
        self.advance()?;
        if let Some(at) = empty {
            return self.skip(RuleError::new(at, format!("a parameter of `{name}` is empty")));
        }
        if arguments.is_empty() {
            return self.skip(RuleError::new(column, format!("`{name}` has no parameter")));
        }
        let built = match (self.build)(Call { name, arguments, column }) {
            Ok(built) => built,
            Err(error) => return self.skip(error),
        };
        self.terms += built.matchers().count();
        if self.terms > TERM_LIMIT {
            return Err(RuleError::new(column, format!("the rule has more than {TERM_LIMIT} matchers")));
        }
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Predicate<String>, RuleError> {
        let build = |call: Call| Ok(Predicate::Is(format!("{}:{}", call.name, call.arguments.join("+"))));
        parse(text, &build).map_err(|mut errors| {
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            errors.remove(0)
        })
    }

    #[test]
    fn each_call_that_means_nothing_is_told() {
        let build = |call: Call| match call.arguments.concat().as_str() {
            "bad" => Err(RuleError::new(call.column, "bad")),
            word => Ok(Predicate::Is(word.to_owned())),
        };
        let columns =
            |text: &str| -> Vec<usize> { parse(text, &build).unwrap_err().iter().map(|error| error.column).collect() };
        assert_eq!(columns("a(`bad`) && (b(`1`) || !c(`bad`)) && d(``) && e()"), [1, 25, 40, 47]);
        assert_eq!(columns("a(`bad`) && b(`bad`"), [1, 20]);
        assert_eq!(columns(&vec!["a(`bad`)"; 1000].join("||")).len(), ERROR_LIMIT);
    }

    #[test]
    fn binds_like_go() {
        for (text, expected) in [
            ("a(`1`)", "a:1"),
            ("a(\"1\",`2`,)", "a:1+2"),
            ("a(`1`) || b(`2`) && c(`3`)", "a:1 || b:2 && c:3"),
            ("(a(`1`) || b(`2`)) && c(`3`)", "(a:1 || b:2) && c:3"),
            ("((a(`1`)) && (b(`2`) && c(`3`)))", "a:1 && b:2 && c:3"),
            ("!a(`1`) && b(`2`)", "!a:1 && b:2"),
            ("!(a(`1`) || b(`2`) && !c(`3`))", "!a:1 && (!b:2 || c:3)"),
            ("!!a(`1`)", "a:1"),
            ("a(\n`1`\n)\n&&\nb(`2`)\n", "a:1 && b:2"),
        ] {
            assert_eq!(words(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_with_the_column() {
        for (text, column) in [
            ("", 1),
            ("  ", 1),
            ("a", 2),
            ("a()", 1),
            ("a(,)", 3),
            ("a(`1`", 6),
            ("a(`1` `2`)", 7),
            ("a(b(`1`))", 3),
            ("a((`1`))", 3),
            ("a(``)", 3),
            ("a(`1`) b(`2`)", 8),
            ("a(`1`) &&", 10),
            ("a(`1`))", 7),
            ("(a(`1`)", 8),
            ("(a)(`1`)", 3),
            ("`a`", 1),
            ("a(`1`) && || b(`2`)", 11),
        ] {
            assert_eq!(words(text).unwrap_err().column, column, "{text}");
        }
    }

    #[test]
    fn bounds_depth_length_and_terms() {
        let deep = |depth: usize| format!("{}a(`1`){}", "(".repeat(depth), ")".repeat(depth));
        assert!(words(&deep(DEPTH_LIMIT)).is_ok());
        assert!(words(&deep(DEPTH_LIMIT + 1)).is_err());
        assert!(words(&format!("{}a(`1`)", "!".repeat(100_000))).is_err());
        let wide = |terms: usize| vec!["a(`1`)"; terms].join("||");
        assert!(words(&wide(TERM_LIMIT)).is_ok());
        assert!(words(&wide(TERM_LIMIT + 1)).unwrap_err().message.contains("more than"));
        assert!(words(&wide(10_000)).unwrap_err().message.contains("longer"));
    }
}
