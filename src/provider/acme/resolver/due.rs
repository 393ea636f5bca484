//! What is to be ordered now, and what servers are to be asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::order::renewal_name;
use super::super::{plan, renewal};
use super::{Done, Mind, ORDERS, Order, Resolver, WINDOW_AGAIN, Work, seconds};
use crate::config::router_tls::Domain;
use crate::tls::Chain;

impl Resolver {
    /// What is to be ordered now; `wake` becomes earlier if something else is due before.
    pub(super) fn due(&self, mind: &mut Mind, now: Instant, wake: &mut Instant) -> Vec<Order> {
        let Some(applied) = self.status.applied() else { return Vec::new() };
        let wanted: Vec<Domain> = applied
            .wanted
            .iter()
            .filter(|wanted| *wanted.resolver == *self.name)
            .map(|wanted| wanted.domain.clone())
            .collect();
        let by_dns = self.dns.is_some();
        mind.objections.clear();
        let mut possible = Vec::new();
        for domain in &wanted {
            let names = plan::names(domain);
            let objections = names.iter().filter_map(|name| Some((name.clone(), plan::objection(name, by_dns)?)));
            let before = mind.objections.len();
            mind.objections.extend(objections);
            // As in Traefik: the others of its names are not ordered without it.
            if mind.objections.len() == before {
                possible.push(domain.clone());
            }
        }
        let is_covered = |name: &str| {
            mind.chains.values().any(|chain| plan::covers(&chain.names, name))
                || mind.running.iter().any(|names| plan::covers(names, name))
                || applied.certificates.has(name)
        };
        let mut orders: Vec<Order> = plan::missing(&possible, &is_covered)
            .into_iter()
            .filter_map(|names| {
                let (main, sans) = names.split_first()?;
                let domain = Domain { main: main.clone(), sans: sans.into() };
                Some(Order { domain, names, replaces: None })
            })
            .collect();
        let today = seconds();
        for stored in mind.kept.certificates.iter().chain(&mind.unsaved) {
            let Some(chain) = mind.chains.get(&stored.certificate) else { continue };
            let is_needed = wanted.iter().flat_map(plan::names).any(|name| plan::covers(&chain.names, &name));
            let names = plan::names(&stored.domain);
            if !is_needed || names.is_empty() || mind.running.contains(&names) {
                continue;
            }
            let left = self.renew_at(mind, chain).saturating_sub(today);
            if left > 0 {
                *wake = (*wake).min(now + Duration::from_secs(left.unsigned_abs()));
            } else {
                orders.push(Order { names, domain: stored.domain.clone(), replaces: renewal_name(chain) });
            }
        }
        // What nobody wants any more, or somebody else has got, is no problem.
        let running = &mind.running;
        mind.patience.tidy(now, |names| running.contains(names) || orders.iter().any(|order| order.names == *names));
        orders.retain(|order| {
            let again = mind.patience.until(&order.names).unwrap_or(now);
            if again > now {
                *wake = (*wake).min(again);
            }
            again <= now
        });
        orders
    }

    /// When a certificate is renewed: when the server wants it, or else by its life.
    fn renew_at(&self, mind: &Mind, chain: &Chain) -> i64 {
        let own = plan::renew_at(chain, self.settings.certificates_duration);
        let wish = renewal_name(chain).and_then(|name| mind.windows.get(&name)?.window);
        wish.map_or(own, |(_, moment)| moment.min(chain.not_after))
    }

    /// Asks the server when it wants our certificates to be renewed.
    pub(super) fn ask_for_windows(
        self: &Arc<Self>,
        mind: &mut Mind,
        tasks: &mut JoinSet<Done>,
        now: Instant,
        wake: &mut Instant,
    ) {
        let names: Vec<String> = mind.chains.values().filter_map(renewal_name).collect();
        mind.windows.retain(|name, _| names.contains(name));
        // Only a server that we work with is asked.
        let Ok(orders) = self.orders.try_lock() else { return };
        let Some(orders) = orders.as_ref().filter(|orders| orders.server.directory.renewal_info.is_some()) else {
            return;
        };
        for name in names {
            let again = mind.windows.get(&name).map_or(now, |wish| wish.again);
            if again > now || mind.asking.contains(&name) {
                *wake = (*wake).min(again.max(now + WINDOW_AGAIN / 10));
            } else if mind.asking.len() < ORDERS {
                mind.asking.push(name.clone());
                let orders = orders.clone();
                let work = Work::Ask(name.clone());
                let task = tasks.spawn(async move {
                    let result = renewal::ask(&orders.server, &name).await;
                    Done::Asked { certificate: name, result }
                });
                mind.tasks.insert(task.id(), work);
            }
        }
    }
}
