//! Tree → text.

use std::rc::Rc;

use super::format::{self, Quoting};
use super::functions::{Body, Call};
use super::parser::{Branch, Command, Node, Operand, Pipeline, Term};
use super::value::{Heap, Misuse, Value};
use super::{DEPTH_LIMIT, Fault, OUTPUT_LIMIT_BYTES, Template};

/// Evaluates a template. Its dot is `false`, as Traefik's file provider has it.
pub(super) fn render(template: &Template, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Fault> {
    let dot = Value::Bool(false);
    let mut evaluation = Evaluation {
        template,
        heap: Heap::new(environment),
        variables: vec![("$".into(), dot.clone())],
        output: String::new(),
        depth: 0,
    };
    evaluation.list(&template.main, &dot)?;
    Ok(evaluation.output)
}

/// How it goes on after a node.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Evaluation<'e> {
    template: &'e Template,
    heap: Heap<'e>,
    variables: Vec<(Rc<str>, Value)>,
    output: String,
    depth: usize,
}

impl Evaluation<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Fault> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    self.check_output(0)?;
                    Flow::Next
                }
                Node::Print(pipeline) => self.print(pipeline, dot)?,
                Node::If(branch) => self.condition(branch, dot, |_| dot.clone())?,
                Node::With(branch) => self.condition(branch, dot, Value::clone)?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Template { at, name, dot: passed } => self.call(*at, name, passed.as_ref(), dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Flow, Fault> {
        let value = self.pipeline(pipeline, dot)?;
        if pipeline.variables.is_empty() {
            format::write(&mut self.output, &mut self.heap, &value, Quoting::Plain)
                .map_err(|message| Fault::new(pipeline.at, message))?;
            self.check_output(pipeline.at)?;
        } else {
            self.set(pipeline, &[value]);
        }
        Ok(Flow::Next)
    }

    fn check_output(&self, at: usize) -> Result<(), Fault> {
        if self.output.len() > OUTPUT_LIMIT_BYTES {
            return Err(Fault::new(at, format!("the template makes more than {OUTPUT_LIMIT_BYTES} bytes")));
        }
        Ok(())
    }

    /// Sets the variables of a pipeline to the last of `values`.
    fn set(&mut self, pipeline: &Pipeline, values: &[Value]) {
        let skipped = values.len().saturating_sub(pipeline.variables.len());
        for (name, value) in pipeline.variables.iter().zip(&values[skipped.min(values.len())..]) {
            let known = self.variables.iter_mut().rev().find(|(known, _)| pipeline.assigns && known == name);
            match known {
                Some((_, old)) => *old = value.clone(),
                None => self.variables.push((name.clone(), value.clone())),
            }
        }
    }

    /// `if` and `with`; `inner` makes the dot of the body.
    fn condition(&mut self, branch: &Branch, dot: &Value, inner: impl Fn(&Value) -> Value) -> Result<Flow, Fault> {
        self.enter(branch.pipeline.at)?;
        let known = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        self.set(&branch.pipeline, std::slice::from_ref(&value));
        let flow = if self.heap.is_true(&value) {
            self.list(&branch.body, &inner(&value))?
        } else {
            self.list(&branch.otherwise, dot)?
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(flow)
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, Fault> {
        let at = branch.pipeline.at;
        self.enter(at)?;
        let known = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let is_empty = match &value {
            Value::Nil => true,
            Value::Int(count) if branch.pipeline.variables.len() < 2 => {
                let count = *count;
                self.repeat(branch, (0..count).map(|index| (Value::Int(index), Value::Int(index))))?;
                count <= 0
            }
            Value::List(list) => {
                let items = list.items.iter().enumerate();
                self.repeat(branch, items.map(|(index, item)| (Value::Int(index as i64), item.clone())))?;
                list.items.is_empty()
            }
            Value::Map(id) => {
                let entries = self.heap.map(*id).clone();
                self.heap.charge(entries.len()).map_err(|message| Fault::new(at, message))?;
                self.repeat(branch, entries.iter().map(|(key, item)| (Value::Text(key.clone()), item.clone())))?;
                entries.is_empty()
            }
            Value::Int(_) => return Err(Fault::new(at, "`range` over a number has one variable only")),
            other => {
                let fault =
                    Fault::new(at, format!("`range` needs a list, a map or a number, found {}", other.describe()));
                return Err(fault);
            }
        };
        self.variables.truncate(known);
        let flow = if is_empty { self.list(&branch.otherwise, dot)? } else { Flow::Next };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(flow)
    }

    fn repeat(&mut self, branch: &Branch, items: impl Iterator<Item = (Value, Value)>) -> Result<(), Fault> {
        let known = self.variables.len();
        for (key, item) in items {
            self.heap.charge(0).map_err(|message| Fault::new(branch.pipeline.at, message))?;
            self.set(&branch.pipeline, &[key, item.clone()]);
            let flow = self.list(&branch.body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn call(&mut self, at: usize, name: &str, passed: Option<&Pipeline>, dot: &Value) -> Result<Flow, Fault> {
        self.enter(at)?;
        let dot = match passed {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Nil,
        };
        let Some(body) = self.template.named.get(name) else {
            return Err(Fault::new(at, format!("there is no template called `{name}`")));
        };
        self.heap.charge(0).map_err(|message| Fault::new(at, message))?;
        let variables = std::mem::replace(&mut self.variables, vec![("$".into(), dot.clone())]);
        self.list(body, &dot)?;
        self.variables = variables;
        self.depth -= 1;
        Ok(Flow::Next)
    }

    fn enter(&mut self, at: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err(Fault::new(at, format!("more than {DEPTH_LIMIT} actions or templates within each other")));
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Fault> {
        self.heap.charge(0).map_err(|message| Fault::new(pipeline.at, message))?;
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        Ok(piped.unwrap_or(Value::Nil))
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, Fault> {
        let first = &command.first;
        let Term::Function(function) = &first.term else {
            if piped.is_some() {
                return Err(Fault::new(first.at, "only functions can stand behind `|`"));
            }
            return self.operand(first, dot);
        };
        let count = command.arguments.len() + usize::from(piped.is_some());
        function.check_count(count).map_err(|message| Fault::new(first.at, message))?;
        let value = match function.body {
            Body::Plain(body) => {
                let mut arguments = Vec::with_capacity(count);
                for argument in &command.arguments {
                    arguments.push(self.operand(argument, dot)?);
                }
                arguments.extend(piped);
                body(&mut Call { heap: &mut self.heap, arguments: &arguments })
                    .map_err(|message| Fault::new(first.at, format!("`{}`: {message}", function.name)))?
            }
            Body::FirstThat(truth) => self.first_that(truth, command, dot, piped)?,
        };
        self.fields(first, value)
    }

    /// `and` and `or`: the first argument with that truth, or the last one. The rest is not evaluated.
    fn first_that(
        &mut self,
        truth: bool,
        command: &Command,
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        let mut last = Value::Nil;
        for argument in &command.arguments {
            last = self.operand(argument, dot)?;
            if self.heap.is_true(&last) == truth {
                return Ok(last);
            }
        }
        Ok(piped.unwrap_or(last))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Fault> {
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Literal(value) => value.clone(),
            Term::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let unknown = || Fault::new(operand.at, format!("the variable `{name}` is not known here"));
                found.map(|(_, value)| value.clone()).ok_or_else(unknown)?
            }
            Term::Function(function) => {
                function.check_count(0).map_err(|message| Fault::new(operand.at, message))?;
                match function.body {
                    Body::Plain(body) => body(&mut Call { heap: &mut self.heap, arguments: &[] })
                        .map_err(|message| Fault::new(operand.at, format!("`{}`: {message}", function.name)))?,
                    Body::FirstThat(_) => Value::Nil,
                }
            }
            Term::Pipeline(pipeline) => {
                self.enter(operand.at)?;
                let value = self.pipeline(pipeline, dot)?;
                self.depth -= 1;
                value
            }
        };
        self.fields(operand, value)
    }

    fn fields(&mut self, operand: &Operand, mut value: Value) -> Result<Value, Fault> {
        for name in &operand.fields {
            value = self.field(&value, name).map_err(|message| {
                let fault = Fault::new(operand.at, message);
                match operand.term {
                    Term::Dot => {
                        fault.with_help("in a file, `.` has a value only within `range`, `with` and templates")
                    }
                    _ => fault,
                }
            })?;
        }
        Ok(value)
    }

    fn field(&self, value: &Value, name: &str) -> Result<Value, Misuse> {
        match value {
            Value::Map(id) => Ok(self.heap.map(*id).get(name).cloned().unwrap_or(Value::Nil)),
            other => Err(format!("`.{name}` needs a map, found {}", other.describe())),
        }
    }
}
