//! Prometheus reads what is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::exchange::Fault;
use crate::problem::Problem;

use super::log;
use super::meters::{EntryPointMeters, Meter, Refusal, ServiceMeters, Transport};
use super::metrics::family::{self, Family, Requests};
use super::metrics::{Metrics, Staples};
use super::observation::{Key, SUITES};
use super::process::Process;
use super::series::Totals;

mod datagrams;

/// The media type of [`Exporter::prometheus_text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Turns meters into a page of text. Reading takes time in proportion to the series: not for a traffic worker.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// An exporter of `metrics` and of facts about the process.
    ///
    /// # Errors
    /// A family was named twice: a mistake in this program.
    pub fn new(metrics: Arc<Metrics>) -> Result<Self, Problem> {
        let registry = Registry::new();
        let register = |collector: Box<dyn Collector>| {
            registry.register(collector).map_err(|error| Problem::at("metrics", format!("register: {error}")))
        };
        register(Box::new(Live { metrics, descriptions: descriptions(FAMILIES)? }))?;
        register(Box::new(Process::new(descriptions(&PROCESS_FAMILIES)?)))?;
        Ok(Self { registry })
    }

    /// The page, in Prometheus' text format. Series of routers and services that are gone stand on it once more, and no more.
    pub fn prometheus_text(&self) -> Vec<u8> {
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            ::log::error!("write metrics: {error}");
        }
        page
    }
}

const FAMILIES: &[Family] = &[
    family::ENTRY_POINT.total,
    family::ENTRY_POINT.tls,
    family::ENTRY_POINT.duration,
    family::ENTRY_POINT.request_bytes,
    family::ENTRY_POINT.response_bytes,
    family::ROUTER.total,
    family::ROUTER.tls,
    family::ROUTER.duration,
    family::ROUTER.request_bytes,
    family::ROUTER.response_bytes,
    family::SERVICE.total,
    family::SERVICE.tls,
    family::SERVICE.duration,
    family::SERVICE.request_bytes,
    family::SERVICE.response_bytes,
    family::UDP_ENTRY_POINT.sessions,
    family::UDP_ENTRY_POINT.open,
    family::UDP_ENTRY_POINT.total,
    family::UDP_ENTRY_POINT.bytes,
    family::UDP_ENTRY_POINT.ended,
    family::UDP_ENTRY_POINT.seconds,
    family::UDP_ENTRY_POINT.dropped,
    family::UDP_SERVICE.sessions,
    family::UDP_SERVICE.open,
    family::UDP_SERVICE.total,
    family::UDP_SERVICE.bytes,
    family::UDP_SERVICE.ended,
    family::UDP_SERVICE.seconds,
    family::UDP_SERVICE.dropped,
    family::UDP_EVICTIONS,
    family::UDP_SERVER_UP,
    family::UDP_SERVER_REFUSALS,
    family::CONFIG_RELOADS,
    family::CONFIG_LAST_RELOAD,
    family::CERTIFICATE_END,
    family::STAPLES,
    family::RESPONDER_ANSWERS,
    family::OPEN_CONNECTIONS,
    family::SERVICE_RETRIES,
    family::SERVER_UP,
    family::BUILD,
    family::GATEWAY_ERRORS,
    family::CONNECTIONS_REFUSED,
    family::TCP_OPEN,
    family::TCP_CONNECTIONS,
    family::TCP_RECEIVED,
    family::TCP_SENT,
    family::TCP_SECONDS,
    family::TCP_SERVER_UP,
    family::ACCESS_LOG_DROPS,
    family::LOG_DROPS,
    family::CONFIG_RELOAD_FAILURES,
    family::CONFIG_PROBLEMS,
    family::UPGRADES,
];

const PROCESS_FAMILIES: [Family; 7] = [
    family::CPU,
    family::OPEN_FDS,
    family::MAX_FDS,
    family::VIRTUAL_MEMORY,
    family::RESIDENT_MEMORY,
    family::THREADS,
    family::START_TIME,
];

fn descriptions(families: &[Family]) -> Result<Vec<Desc>, Problem> {
    families
        .iter()
        .map(|family| {
            Desc::new(family.name.to_owned(), family.help.to_owned(), Vec::new(), HashMap::new())
                .map_err(|error| Problem::at("metrics", format!("describe {}: {error}", family.name)))
        })
        .collect()
}

/// Walks the live meters.
struct Live {
    metrics: Arc<Metrics>,
    descriptions: Vec<Desc>,
}

impl Collector for Live {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        self.collect_process(&mut page);
        self.collect_entry_points(&mut page);
        self.collect_routers(&mut page);
        self.collect_services(&mut page);
        self.collect_datagrams(&mut page);
        self.collect_connections(&mut page);
        page.finish()
    }
}

impl Live {
    fn collect_process(&self, page: &mut Page) {
        let process = &self.metrics.process;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        page.add(family::BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        page.add(family::CONFIG_RELOADS, &[], read(&process.reloads));
        page.add(family::CONFIG_LAST_RELOAD, &[], read(&process.last_reload));
        page.add(family::CONFIG_RELOAD_FAILURES, &[], read(&process.reload_failures));
        page.add(family::ACCESS_LOG_DROPS, &[], read(&process.access_log_drops));
        page.add(family::LOG_DROPS, &[], log::dropped() as f64);
        for (severity, count) in ["warning", "error"].into_iter().zip(&process.problems) {
            page.add(family::CONFIG_PROBLEMS, &[("severity", severity)], read(count));
        }
        for (result, count) in ["done", "failed"].into_iter().zip(&process.upgrades) {
            page.add(family::UPGRADES, &[("result", result)], read(count));
        }
        for certificate in &*process.certificates.lock() {
            let labels =
                [("cn", &*certificate.common_name), ("sans", &*certificate.names), ("serial", &*certificate.serial)];
            page.add(family::CERTIFICATE_END, &labels, certificate.not_after as f64);
        }
        // Nobody asks responders before the first count.
        let Some(Staples { valid, missing, revoked }) = *process.staples.lock() else { return };
        for (state, count) in [("valid", valid), ("missing", missing), ("revoked", revoked)] {
            page.add(family::STAPLES, &[("state", state)], count as f64);
        }
        for (result, count) in ["good", "revoked", "failed"].into_iter().zip(&process.responder_answers) {
            page.add(family::RESPONDER_ANSWERS, &[("result", result)], read(count));
        }
    }

    fn collect_entry_points(&self, page: &mut Page) {
        let (used, unused) = self.metrics.entry_points.lock().all();
        for meters in used.iter().chain(&unused) {
            self.collect_entry_point(page, meters);
        }
        drop(used);
        self.metrics.entry_points.lock().remove(unused);
    }

    fn collect_entry_point(&self, page: &mut Page, meters: &EntryPointMeters) {
        let name = &*meters.name;
        self.collect_requests(page, (&family::ENTRY_POINT, &[("entrypoint", name)]), &meters.meter);
        for (transport, protocol) in Transport::ALL {
            if let Some(open) = meters.connections_shown(transport) {
                page.add(family::OPEN_CONNECTIONS, &[("entrypoint", name), ("protocol", protocol)], open as f64);
            }
        }
        for (refusal, reason) in Refusal::ALL {
            let refused = meters.refused(refusal);
            if refused > 0 {
                page.add(family::CONNECTIONS_REFUSED, &[("entrypoint", name), ("reason", reason)], refused as f64);
            }
        }
        for (fault, count) in Fault::ALL.iter().zip(meters.faults().unwrap_or_default()) {
            if count > 0 {
                page.add(family::GATEWAY_ERRORS, &[("code", fault.code()), ("entrypoint", name)], count as f64);
            }
        }
    }

    fn collect_routers(&self, page: &mut Page) {
        let (used, unused) = self.metrics.routers.lock().all();
        for meters in used.iter().chain(&unused) {
            let labels = [("router", &*meters.router), ("service", &*meters.service)];
            self.collect_requests(page, (&family::ROUTER, &labels), &meters.meter);
        }
        drop(used);
        self.metrics.routers.lock().remove(unused);
    }

    fn collect_services(&self, page: &mut Page) {
        let (used, unused) = self.metrics.services.lock().all();
        for meters in used.iter().chain(&unused) {
            self.collect_service(page, meters);
        }
        drop(used);
        self.metrics.services.lock().remove(unused);
    }

    fn collect_connections(&self, page: &mut Page) {
        let (used, unused) = self.metrics.connections.lock().all();
        for meters in used.iter().chain(&unused) {
            let scope = [("router", &*meters.router), ("service", &*meters.service)];
            page.add(family::TCP_OPEN, &scope, meters.open() as f64);
            for (ending, count) in meters.endings() {
                let [router, service] = scope;
                page.add(family::TCP_CONNECTIONS, &[("ending", ending), router, service], count as f64);
            }
            let (received, sent, seconds) = meters.carried();
            page.add(family::TCP_RECEIVED, &scope, received as f64);
            page.add(family::TCP_SENT, &scope, sent as f64);
            page.add(family::TCP_SECONDS, &scope, seconds);
        }
        drop(used);
        self.metrics.connections.lock().remove(unused);
        let (used, unused) = self.metrics.tcp_services.lock().all();
        for meters in used.iter().chain(&unused) {
            meters.servers.each(|address, up| {
                let labels = [("address", address), ("service", &*meters.name)];
                page.add(family::TCP_SERVER_UP, &labels, f64::from(u8::from(up)));
            });
        }
        drop(used);
        self.metrics.tcp_services.lock().remove(unused);
    }

    fn collect_service(&self, page: &mut Page, meters: &ServiceMeters) {
        let name = &*meters.name;
        self.collect_requests(page, (&family::SERVICE, &[("service", name)]), &meters.meter);
        if meters.retries() > 0 {
            page.add(family::SERVICE_RETRIES, &[("service", name)], meters.retries() as f64);
        }
        meters.each_server(|url, up| {
            page.add(family::SERVER_UP, &[("service", name), ("url", url)], f64::from(u8::from(up)));
        });
    }

    fn collect_requests(&self, page: &mut Page, (families, scope): (&Requests, &[(&str, &str)]), meter: &Meter) {
        let mut series: Vec<(Key, Totals)> = Vec::new();
        meter.each(|key, totals| series.push((key, totals)));
        let header_labels = &self.metrics.header_labels;
        for (key, totals) in &series {
            let code = key.code();
            let headers = header_labels.pairs(key.headers());
            let mut labels = labels_of(*key, &code, scope);
            labels.extend(headers.iter().map(|(label, value)| (*label, value.as_str())));
            page.add(families.total, &labels, totals.requests() as f64);
        }
        for (key, totals) in without_headers(series) {
            let code = key.code();
            let labels = labels_of(key, &code, scope);
            page.add(families.request_bytes, &labels, totals.request_bytes as f64);
            page.add(families.response_bytes, &labels, totals.response_bytes as f64);
            page.add_histogram(families.duration, &labels, self.histogram(&totals));
        }
        for ((version, cipher), count) in SUITES.iter().zip(meter.tls().unwrap_or_default()) {
            if count > 0 {
                let mut labels = vec![("tls_cipher", *cipher), ("tls_version", *version)];
                labels.extend(scope);
                page.add(families.tls, &labels, count as f64);
            }
        }
    }

    fn histogram(&self, totals: &Totals) -> Histogram {
        let mut histogram = Histogram::default();
        let mut below = 0;
        let buckets = self.metrics.bounds.iter().zip(&totals.buckets).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(totals.requests());
        histogram.set_sample_sum(totals.micros as f64 / 1e6);
        histogram
    }
}

fn labels_of<'l>(key: Key, code: &'l str, scope: &[(&'l str, &'l str)]) -> Vec<(&'l str, &'l str)> {
    let mut labels = vec![("code", code), ("method", key.method()), ("protocol", key.protocol())];
    labels.extend(scope);
    labels
}

/// Adds up what differs in header values alone: only `requests_total` has those labels.
fn without_headers(mut series: Vec<(Key, Totals)>) -> Vec<(Key, Totals)> {
    series.iter_mut().for_each(|(key, _)| *key = key.without_headers());
    series.sort_unstable_by_key(|(key, _)| *key);
    series.dedup_by(|(key, totals), (kept, sum)| {
        let same = key == kept;
        if same {
            sum.add(totals);
        }
        same
    });
    series
}

/// Families while they are filled.
#[derive(Default)]
pub(super) struct Page {
    families: HashMap<&'static str, (Family, Vec<Metric>)>,
}

impl Page {
    /// Adds one series of a counter or gauge.
    pub(super) fn add(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        let mut metric = labelled(labels);
        if family.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.push(family, metric);
    }

    fn add_histogram(&mut self, family: Family, labels: &[(&str, &str)], histogram: Histogram) {
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.push(family, metric);
    }

    fn push(&mut self, family: Family, metric: Metric) {
        self.families.entry(family.name).or_insert_with(|| (family, Vec::new())).1.push(metric);
    }

    pub(super) fn finish(self) -> Vec<MetricFamily> {
        let build = |(family, metrics): (Family, Vec<Metric>)| {
            let mut built = MetricFamily::default();
            built.set_name(family.name.to_owned());
            built.set_help(family.help.to_owned());
            built.set_field_type(family.kind);
            built.set_metric(metrics);
            built
        };
        self.families.into_values().map(build).collect()
    }
}

/// A metric with its labels in the order of their names, as Prometheus' own libraries write them.
fn labelled(labels: &[(&str, &str)]) -> Metric {
    let mut pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    pairs.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    Metric::from_label(pairs)
}

#[cfg(test)]
mod tests;
