//! One order from its beginning to a certificate in the storage, with the account that it needs.

use std::sync::Arc;

use tokio::task;

use super::super::Proofs;
use super::super::account::Account;
use super::super::order::{Issued, Orders};
use super::super::proof::Prover;
use super::super::server::{Failure, Server};
use super::super::storage::{Held, Stored};
use super::{Done, Order, Resolver};

impl Resolver {
    pub(super) async fn carry_out(self: Arc<Self>, order: Order, held: Arc<Held>) -> Done {
        let Order { names, domain, replaces } = order;
        let result = async {
            let Issued { chain, key } = self.orders(&held).await?.obtain(&names, replaces.as_deref()).await?;
            let stored = Stored::new(domain, &chain, &key);
            let saved = self.keep(&held, stored.clone()).await;
            Ok((stored, saved))
        }
        .await;
        if let Err(Failure::Refused { kind, .. }) = &result
            && kind == "accountDoesNotExist"
        {
            log::warn!("certificate resolver {}: the server does not know our account: another one is made", self.name);
            *self.orders.lock().await = None;
            let (storage, name) = (self.storage.clone(), self.name.clone());
            let forget = move || storage.update(&held, &name, |kept| kept.account = None);
            if let Ok(Err(message)) = task::spawn_blocking(forget).await {
                log::error!("certificate resolver {}: {message}", self.name);
            }
        }
        Done::Ordered { names, result }
    }

    /// Server and account: those of before, or found and made now.
    async fn orders(&self, held: &Arc<Held>) -> Result<Arc<Orders>, Failure> {
        let mut orders = self.orders.lock().await;
        if let Some(orders) = &*orders {
            return Ok(orders.clone());
        }
        let prover = self.prover()?;
        let web = self.web.lock().take();
        let web = match web {
            Some(web) => web,
            None => super::super::web(&self.settings).map_err(|problem| Failure::Ours(problem.to_string()))?,
        };
        let server = Server::find(web, &self.settings.ca_server).await?;
        let kept = self.storage.last(&self.name).account;
        let account = match Account::kept(kept.as_ref(), &self.settings)? {
            Some(account) => account,
            None => {
                let (account, new) = Account::register(&server, &self.settings).await?;
                log::info!("certificate resolver {}: registered as {}", self.name, account.name);
                let (storage, held, name) = (self.storage.clone(), held.clone(), self.name.clone());
                let keep = move || storage.update(&held, &name, |kept| kept.account = Some(new));
                let written = task::spawn_blocking(keep).await.unwrap_or_else(|error| Err(error.to_string()));
                // An account that nobody remembers is no use: the next one would be another.
                written.map_err(|message| Failure::Ours(format!("{}: {message}", self.storage.path().display())))?;
                account
            }
        };
        let (settings, claims) = (self.settings.clone(), self.proofs.claims.clone());
        let made = Arc::new(Orders { server, account, settings, prover, claims });
        *orders = Some(made.clone());
        Ok(made)
    }

    fn prover(&self) -> Result<Prover, Failure> {
        let Proofs { answers, challenges, .. } = &self.proofs;
        if let Some(dns) = &self.dns {
            return dns.clone().map(Prover::Dns).map_err(|problem| Failure::Ours(problem.message));
        }
        if let Some(challenge) = &self.settings.http_challenge {
            return Ok(Prover::Http(answers.clone(), challenge.delay.or_zero()));
        }
        let delay = self.settings.tls_challenge.as_ref().map(|challenge| challenge.delay.or_zero());
        Ok(Prover::Tls(challenges.clone(), delay.unwrap_or_default()))
    }
}
