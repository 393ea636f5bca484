//! `udp`: routers and services as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::deserialize::Read;
use super::http::{NameList, Remains};
use super::routing::Names;
use super::tree::{Node, Sources, Value};
use crate::problem::Problems;
use crate::service;
use crate::units::Name;

/// UDP objects by their qualified names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Udp {
    /// Which datagrams go where.
    pub routers: BTreeMap<Name, Arc<Router>>,
    /// Where datagrams go.
    pub services: BTreeMap<Name, Arc<service::udp::Settings>>,
    /// What is written, but cannot be used.
    #[serde(skip)]
    pub broken: Broken,
}

impl Udp {
    /// Whether nothing is in it, broken or not.
    pub fn is_empty(&self) -> bool {
        self.routers.is_empty() && self.services.is_empty() && self.broken == Broken::default()
    }
}

/// Objects that cannot be used. Whatever refers to one of them is disabled too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Routers.
    pub routers: BTreeMap<Name, Remains<Router>>,
    /// Services.
    pub services: BTreeMap<Name, Remains<service::udp::Settings>>,
}

/// Which datagrams go where. It has no rule: all that come in at its entry points are meant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Router {
    /// Where its datagrams come in; empty means all entry points for UDP. Not qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub entry_points: NameList,
    /// Where its datagrams go. Qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
}

impl Router {
    /// Reads a router out of a checked tree.
    pub(super) fn read(node: &Node, _: &Sources, names: &mut Names) -> Read<Self> {
        let mut router = Self { entry_points: names.empty_list(), service: None };
        for (key, node) in node.entries() {
            match (&*key.name, &node.value) {
                ("entryPoints", _) => router.entry_points = names.read_list(node),
                ("service", Value::Str(text)) => router.service = Some(names.read(text)).filter(|_| !text.is_empty()),
                _ => {}
            }
        }
        Read { object: Some(router), problems: Problems::new() }
    }
}

fn is_empty(names: &NameList) -> bool {
    names.is_empty()
}
