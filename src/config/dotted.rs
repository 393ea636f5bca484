//! Dotted names, as flags, variables and labels write them, and their places in the tree.

use std::sync::Arc;

use super::schema::{Kind, Shape};
use super::tree::{Key, Node, Value};

/// Most items of a list that is written item by item.
const INDEX_LIMIT: usize = 1024;

/// One step from a section or list to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(Arc<str>),
    Index(usize),
}

/// A name that leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoSuchKey {
    /// How many of its segments are known.
    pub(super) known: usize,
    /// What the next one should perhaps be.
    pub(super) near: Option<String>,
}

/// What joins the segments of a name, and thus cannot stand within one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    Dot,
    Underscore,
}

/// A place, and what may stand there.
pub(super) type Found<'a> = Result<(Vec<Step>, &'a Shape), NoSuchKey>;

/// Finds the place that `segments` mean, and what stands there.
pub(super) fn resolve<'a>(shape: &'a Shape, segments: &[&str], joint: Joint) -> Found<'a> {
    let Some((first, rest)) = segments.split_first() else { return Ok((Vec::new(), shape)) };
    let here = |near: Option<&str>| NoSuchKey { known: 0, near: near.map(str::to_owned) };
    match (shape.kind, &shape.each) {
        (Kind::Section | Kind::Switch, _) => {
            let field = shape.field(first).ok_or_else(|| here(shape.nearest_field(first)))?;
            below(Step::Key(field.name.clone()), resolve(field, rest, joint), 1)
        }
        (Kind::Items, Some(each)) => {
            let index = first.parse().ok().filter(|index| *index < INDEX_LIMIT).ok_or_else(|| here(None))?;
            below(Step::Index(index), resolve(each, rest, joint), 1)
        }
        (Kind::Names, Some(each)) => name(each, segments, joint),
        (Kind::Each(_), _) => Ok((vec![Step::Key(joined(segments, joint).into())], shape)),
        (Kind::Any, _) => Ok((segments.iter().map(|segment| Step::Key((*segment).into())).collect(), shape)),
        (Kind::Many(_), _) if rest.is_empty() => match first.parse() {
            Ok(index) if index < INDEX_LIMIT => Ok((vec![Step::Index(index)], shape)),
            _ => Err(here(None)),
        },
        _ => Err(here(None)),
    }
}

/// A name chosen by the user. In a variable it may hold underscores: the shortest name that leads somewhere is meant.
fn name<'a>(each: &'a Shape, segments: &[&str], joint: Joint) -> Found<'a> {
    let longest = if joint == Joint::Underscore { segments.len().min(8) } else { 1 };
    let mut failure = NoSuchKey { known: 0, near: None };
    for length in 1..=longest {
        let Some((name, rest)) = segments.split_at_checked(length) else { break };
        match below(Step::Key(joined(name, joint).into()), resolve(each, rest, joint), length) {
            Ok(found) => return Ok(found),
            Err(other) if other.known > failure.known => failure = other,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn below(step: Step, rest: Found<'_>, segments: usize) -> Found<'_> {
    match rest {
        Ok((mut steps, shape)) => {
            steps.insert(0, step);
            Ok((steps, shape))
        }
        Err(failure) => Err(NoSuchKey { known: failure.known + segments, ..failure }),
    }
}

fn joined(segments: &[&str], joint: Joint) -> String {
    segments.join(match joint {
        Joint::Dot => ".",
        Joint::Underscore => "_",
    })
}

/// Puts text at a place, next to what is there already. A list that is written twice is joined.
pub(super) fn insert(place: &mut Node, steps: &[Step], shape: &Shape, node: Node) {
    match (steps.split_first(), &mut place.value) {
        (None, Value::Str(old)) if matches!(shape.kind, Kind::Many(_)) => {
            if let Value::Str(new) = &node.value {
                *old = format!("{old},{new}").into();
            }
        }
        (None, _) => place.merge(node),
        (Some((Step::Key(name), rest)), Value::Map(entries)) => {
            let index = entries.iter().position(|(key, _)| key.name == *name).unwrap_or(entries.len());
            if index == entries.len() {
                entries.push((Key { name: name.clone(), span: node.span }, Node::new(Value::Null, node.span)));
            }
            if let Some((_, below)) = entries.get_mut(index) {
                insert(below, rest, shape, node);
            }
        }
        (Some((Step::Index(index), rest)), Value::List(items)) => {
            while items.len() <= *index {
                items.push(Node::new(Value::Null, node.span));
            }
            if let Some(below) = items.get_mut(*index) {
                insert(below, rest, shape, node);
            }
        }
        (Some((Step::Key(_), _)), other) => {
            (*other, place.span) = (Value::Map(Vec::new()), node.span);
            insert(place, steps, shape, node);
        }
        (Some((Step::Index(_), _)), other) => {
            (*other, place.span) = (Value::List(Vec::new()), node.span);
            insert(place, steps, shape, node);
        }
    }
}
