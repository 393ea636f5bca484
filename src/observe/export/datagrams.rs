//! What is counted of UDP, on the page.

use super::{Live, Page};
use crate::observe::datagrams::{DatagramMeters, Direction, Lost, SessionEnding};
use crate::observe::metrics::family::{self, Datagrams};

impl Live {
    pub(super) fn collect_datagrams(&self, page: &mut Page) {
        let (used, unused) = self.metrics.udp_entry_points.lock().all();
        for meters in used.iter().chain(&unused) {
            let name = &*meters.name;
            add_datagrams(page, (&family::UDP_ENTRY_POINT, ("entrypoint", name)), meters);
            page.add(family::UDP_EVICTIONS, &[("entrypoint", name)], meters.evictions() as f64);
        }
        drop(used);
        self.metrics.udp_entry_points.lock().remove(unused);
        let (used, unused) = self.metrics.udp_services.lock().all();
        for meters in used.iter().chain(&unused) {
            let service = ("service", &*meters.name);
            add_datagrams(page, (&family::UDP_SERVICE, service), meters);
            meters.each_server(|server| {
                let labels = [("address", server.address), service];
                page.add(family::UDP_SERVER_UP, &labels, f64::from(u8::from(server.is_up)));
                page.add(family::UDP_SERVER_REFUSALS, &labels, server.refusals as f64);
            });
        }
        drop(used);
        self.metrics.udp_services.lock().remove(unused);
    }
}

fn add_datagrams(page: &mut Page, (families, label): (&Datagrams, (&str, &str)), meters: &DatagramMeters) {
    page.add(families.sessions, &[label], meters.sessions() as f64);
    page.add(families.open, &[label], meters.open_sessions() as f64);
    for (direction, word) in Direction::ALL {
        let (datagrams, bytes) = meters.sums(direction);
        page.add(families.total, &[("direction", word), label], datagrams as f64);
        page.add(families.bytes, &[("direction", word), label], bytes as f64);
    }
    page.add(families.seconds, &[label], meters.seconds());
    for (ending, word) in SessionEnding::ALL {
        if meters.endings(ending) > 0 {
            page.add(families.ended, &[("ending", word), label], meters.endings(ending) as f64);
        }
    }
    for (drop, reason) in Lost::ALL {
        if meters.drops(drop) > 0 {
            page.add(families.dropped, &[("reason", reason), label], meters.drops(drop) as f64);
        }
    }
}
