//! Signals of the operating system, caught from the first moment on: one that comes before the runtime stands is kept, not deadly.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level};

/// What a signal asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGINT: drain and end; a person at the keyboard asks, so a second one means now.
    Interrupt,
    /// SIGQUIT: drain and end, as nginx's operators know it.
    Quit,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open the log files again, after a rotation.
    ReopenLogs,
    /// SIGUSR2: hand over to a new process of the program on disk.
    Upgrade,
}

impl Signal {
    /// Whether it asks to drain and end.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Terminate | Self::Interrupt | Self::Quit)
    }
}

/// Of several pending signals the first in this list is answered first: an end makes the others pointless.
const CAUGHT: [(i32, Signal); 6] = [
    (SIGTERM, Signal::Terminate),
    (SIGINT, Signal::Interrupt),
    (SIGQUIT, Signal::Quit),
    (SIGHUP, Signal::Reload),
    (SIGUSR1, Signal::ReopenLogs),
    (SIGUSR2, Signal::Upgrade),
];

/// The signals sent to this process since [`Signals::install`].
///
/// Bounded as the kernel's own bookkeeping is: a signal that comes again before it was taken counts once.
pub struct Signals {
    raised: [Arc<AtomicBool>; CAUGHT.len()],
    /// Whether the handlers stand aside.
    released: Arc<AtomicBool>,
    wake: Wake,
}

/// The reading end of the pipe that the handlers write to; tokio can take it over only inside a runtime.
enum Wake {
    Early(UnixStream),
    Watched(tokio::net::UnixStream),
}

impl Signals {
    /// Installs the handlers. Call it first thing in `main`, before any thread or runtime. Who does not take signals afterwards
    /// calls [`Signals::release`].
    ///
    /// # Errors
    /// When the operating system refuses a pipe or a handler.
    pub fn install() -> io::Result<Self> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let raised: [Arc<AtomicBool>; CAUGHT.len()] = Default::default();
        let released = Arc::new(AtomicBool::new(false));
        for ((number, signal), raised) in CAUGHT.iter().zip(&raised) {
            if signal.is_end() || *signal == Signal::Reload {
                flag::register_conditional_default(*number, Arc::clone(&released))?;
            }
            // The flag first: whoever is woken must find it set.
            flag::register(*number, Arc::clone(raised))?;
            low_level::pipe::register(*number, waker.try_clone()?)?;
        }
        Ok(Self { raised, released, wake: Wake::Early(wake) })
    }

    /// Gives the signals that end a process their usual meaning back, for one that only asks another one something: Ctrl-C ends it.
    /// Those about logs and upgrades stay without effect: they are sent to all processes of a service.
    ///
    /// # Errors
    /// When one that came before cannot be raised again.
    pub fn release(&self) -> io::Result<()> {
        self.released.store(true, Ordering::SeqCst);
        while let Some((number, _)) = self.take(Signal::is_end) {
            low_level::raise(number)?;
        }
        Ok(())
    }

    /// The next signal. Safe to drop and call again: nothing is lost.
    ///
    /// # Errors
    /// When the pipe cannot be watched; never in a runtime with I/O enabled.
    pub async fn next(&mut self) -> io::Result<Signal> {
        self.next_of(|_| true).await
    }

    /// The next signal that asks to end. Others are kept for [`Signals::next`].
    ///
    /// # Errors
    /// As [`Signals::next`].
    pub async fn next_end(&mut self) -> io::Result<Signal> {
        self.next_of(Signal::is_end).await
    }

    /// Whether this signal has come since it was taken last; takes it.
    pub fn take_if_raised(&self, signal: Signal) -> bool {
        self.take(|raised| raised == signal).is_some()
    }

    async fn next_of(&mut self, wanted: impl Fn(Signal) -> bool) -> io::Result<Signal> {
        loop {
            if let Some((_, signal)) = self.take(&wanted) {
                return Ok(signal);
            }
            let wake = self.watched()?;
            wake.readable().await?;
            drain(wake)?;
        }
    }

    fn take(&self, wanted: impl Fn(Signal) -> bool) -> Option<(i32, Signal)> {
        let mut caught = CAUGHT.iter().zip(&self.raised).filter(|((_, signal), _)| wanted(*signal));
        caught.find_map(|(caught, raised)| raised.swap(false, Ordering::AcqRel).then_some(*caught))
    }

    fn watched(&mut self) -> io::Result<&tokio::net::UnixStream> {
        if let Wake::Early(early) = &self.wake {
            self.wake = Wake::Watched(tokio::net::UnixStream::from_std(early.try_clone()?)?);
        }
        match &self.wake {
            Wake::Watched(watched) => Ok(watched),
            Wake::Early(_) => Err(io::Error::other("the signal pipe is not watched")),
        }
    }
}

fn drain(wake: &tokio::net::UnixStream) -> io::Result<()> {
    let mut sink = [0; 64];
    loop {
        match wake.try_read(&mut sink) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_before_the_runtime_are_kept_and_an_end_goes_first() {
        let mut signals = Signals::install().unwrap();
        for number in [SIGHUP, SIGUSR1, SIGHUP, SIGTERM] {
            low_level::raise(number).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            assert_eq!(signals.next().await.unwrap(), Signal::Terminate);
            assert_eq!(signals.next().await.unwrap(), Signal::Reload);
            assert_eq!(signals.next().await.unwrap(), Signal::ReopenLogs);
            low_level::raise(SIGUSR2).unwrap();
            assert_eq!(signals.next().await.unwrap(), Signal::Upgrade);
            for number in [SIGHUP, SIGUSR1, SIGINT] {
                low_level::raise(number).unwrap();
            }
            assert_eq!(signals.next_end().await.unwrap(), Signal::Interrupt);
            assert!(signals.take_if_raised(Signal::Reload) && !signals.take_if_raised(Signal::Reload));
            assert_eq!(signals.next().await.unwrap(), Signal::ReopenLogs, "kept");
        });
    }
}
