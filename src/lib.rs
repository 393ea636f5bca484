#![doc = include_str!("../ARCHITECTURE.md")]

// Modules in floor order: a module may use those above it in this list, never those below (`tests/it/tidy.rs`).
pub mod problem;
pub mod units;

pub mod exchange;
pub mod observe;

pub mod middleware;
pub mod rule;
pub mod service;
pub mod tls;

pub mod config;
pub mod snapshot;
#[cfg(any(feature = "acme", feature = "ocsp"))]
pub mod web;

pub mod control;
pub mod traffic;

pub mod admin;
pub mod process;
pub mod provider;
#[cfg(feature = "ocsp")]
pub mod stapling;

pub mod app;
pub mod check;
pub mod cli;
pub mod demo;
pub mod explain;
pub mod health;
