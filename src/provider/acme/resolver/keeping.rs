//! What a resolver reads from its storage and writes to it. The storage blocks, and so all of it is done on threads for that.

use std::sync::Arc;

use tokio::task;
use tokio::time::Instant;

use super::super::patience::Remembered;
use super::super::storage::{Held, Stored};
use super::{Mind, Resolver, STORAGE_AGAIN, seconds};
use crate::tls::Chain;

impl Resolver {
    pub(super) async fn load(&self, mind: &mut Mind) {
        let (storage, name) = (self.storage.clone(), self.name.clone());
        let loaded = task::spawn_blocking(move || storage.load(&name)).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(kept) => {
                mind.kept = kept;
                mind.storage = None;
            }
            Err(message) => {
                if mind.storage.as_ref() != Some(&message) {
                    log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
                }
                mind.storage = Some(message);
            }
        }
        let texts = mind.kept.certificates.iter().chain(&mind.unsaved);
        let known = std::mem::take(&mut mind.chains);
        mind.chains = texts
            .filter_map(|stored| {
                let text = stored.certificate.clone();
                let chain = match known.get(&text) {
                    Some(chain) => chain.clone(),
                    None => Chain::read(&stored.pem()?.0).ok()?,
                };
                Some((text, chain))
            })
            .collect();
    }

    /// Takes up what servers have refused before this process was there.
    pub(super) async fn recall(&self, mind: &mut Mind) {
        let (storage, name) = (self.storage.clone(), self.name.clone());
        let kept = task::spawn_blocking(move || storage.remembered(&name)).await.unwrap_or_default();
        let recalled = mind.patience.recall(kept, (Instant::now(), seconds()));
        if recalled > 0 {
            log::info!("certificate resolver {}: {recalled} refusals of before are heeded", self.name);
        }
    }

    /// Keeps what servers refuse, for who comes after this process. What cannot be written is tried again with the next step.
    pub(super) async fn remember(&self, mind: &mut Mind) {
        let refusals = mind.patience.remember((Instant::now(), seconds()));
        let is_same = |(a, b): (&Remembered, &Remembered)| a.is_same(b);
        if refusals.len() == mind.remembered.len() && refusals.iter().zip(&mind.remembered).all(is_same) {
            mind.unkept = None;
            return;
        }
        let (storage, name, new) = (self.storage.clone(), self.name.clone(), refusals.clone());
        let write = move || match storage.hold()? {
            Some(held) => storage.remember(&held, &name, new).map_err(|error| error.to_string()),
            None => Err("another process has the storage".to_owned()),
        };
        let written = task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.to_string()));
        match written {
            Ok(()) => {
                mind.remembered = refusals;
                mind.unkept = None;
            }
            Err(message) => {
                // Once for each reason: it is tried again and again.
                if mind.unkept.as_ref() != Some(&message) {
                    log::warn!("certificate resolver {}: what was refused is not kept: {message}", self.name);
                }
                mind.unkept = Some(message);
            }
        }
    }

    /// Writes what could not be written before.
    pub(super) async fn save(&self, mind: &mut Mind, held: &Arc<Held>, wake: &mut Instant) {
        let mut unsaved = Vec::new();
        for stored in std::mem::take(&mut mind.unsaved) {
            match self.keep(held, stored.clone()).await {
                Ok(()) => mind.kept.put(stored),
                Err(message) => {
                    log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
                    unsaved.push(stored);
                    *wake = (*wake).min(Instant::now() + STORAGE_AGAIN);
                }
            }
        }
        mind.unsaved = unsaved;
    }

    pub(super) async fn keep(&self, held: &Arc<Held>, stored: Stored) -> Result<(), String> {
        let (storage, held, name) = (self.storage.clone(), held.clone(), self.name.clone());
        let kept = task::spawn_blocking(move || storage.update(&held, &name, |kept| kept.put(stored))).await;
        kept.unwrap_or_else(|error| Err(error.to_string()))
    }
}
