//! Facts about this process, read from `/proc` when somebody asks.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use rustix::process::{Resource, getrlimit};

use super::export::Page;
use super::metrics::family::{self, Family};

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process {
    descriptions: Vec<Desc>,
}

impl Process {
    pub(super) fn new(descriptions: Vec<Desc>) -> Self {
        Self { descriptions }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    /// What cannot be read is left out.
    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        let mut add = |family: Family, value: Option<f64>| {
            if let Some(value) = value {
                page.add(family, &[], value);
            }
        };
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
        add(family::CPU, stat.map(|stat| stat.cpu_ticks / ticks));
        add(family::THREADS, stat.map(|stat| stat.threads));
        add(family::VIRTUAL_MEMORY, stat.map(|stat| stat.virtual_bytes));
        add(family::RESIDENT_MEMORY, stat.map(|stat| stat.resident_pages * rustix::param::page_size() as f64));
        add(family::START_TIME, stat.and_then(|stat| Some(boot? + stat.start_ticks / ticks)));
        // The folder itself is one of the descriptors while it is read.
        add(family::OPEN_FDS, fs::read_dir("/proc/self/fd").ok().map(|folder| folder.count().saturating_sub(1) as f64));
        add(family::MAX_FDS, getrlimit(Resource::Nofile).current.map(|limit| limit as f64));
        page.finish()
    }
}

/// What `/proc/self/stat` says, see proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses included.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first field behind the name is the third of the page.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine was started, in seconds since 1970.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_whatever_the_name() {
        let text =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 12345 1000000 250 18446744073709551615";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu_ticks: 200.0,
                threads: 9.0,
                start_ticks: 12345.0,
                virtual_bytes: 1e6,
                resident_pages: 250.0
            })
        );
        assert_eq!(Stat::parse("42 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
    }

    #[test]
    fn this_process_has_all_of_them() {
        assert_eq!(Process::new(Vec::new()).collect().len(), 7);
    }
}
