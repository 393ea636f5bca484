//! A running gateway from start to end: sockets, entry points, signals, commands, upgrades, the drain.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::{self, Exit};
use crate::observe;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Upgrade;
use crate::problem::Problems;
use crate::process::command::{self, Answer, Command, Control, InsteadOf, Pinged, Request};
use crate::process::drain::{self, Cause, Drain};
use crate::process::handover::{Bequest, Bond, Departure, Successor, Word};
use crate::process::{Handover, Inheritance, Signal, Signals, SocketName, Supervisor, systemd};

use super::assemble::{Listeners, Ready, Refusal, assemble};
use super::doors::Doors;
use super::opener::Opener;
use super::reload;
use super::{App, Start, options};

/// Commands that may wait to be carried out.
const WAITING_COMMANDS: usize = 8;
/// What comes after a drain: logs are written out, runtimes end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long the control runtime may take to end.
const RUNTIME_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Runs until a signal ends it.
pub fn run(start: Start, signals: Signals) -> Exit {
    let inheritance = match Inheritance::take() {
        Ok(inheritance) => inheritance,
        Err(denied) => {
            eprintln!("portcullis: {denied}");
            return Exit::Failed;
        }
    };
    match prepare(start, signals, inheritance) {
        Ok(exit) => exit,
        Err(refusal) => {
            for problem in refusal.problems() {
                eprintln!("{problem}");
            }
            eprintln!("portcullis: not started");
            refusal.exit()
        }
    }
}

/// From the configuration to a runtime that serves. A successor that fails here tells its predecessor why.
fn prepare(start: Start, signals: Signals, mut inheritance: Option<Inheritance>) -> Result<Exit, Refusal> {
    let assembled = assemble(start, inheritance.as_mut().map(Inheritance::sockets));
    match assembled {
        Ok(gateway) => {
            if let Some(inheritance) = &inheritance {
                gateway.app.tickets.import(inheritance.secrets());
                gateway.app.take_over_answers(inheritance.notes());
            }
            Ok(gateway.live(signals, inheritance))
        }
        Err(refusal) => {
            if let Some(inheritance) = inheritance {
                inheritance.failed(&in_one_line(refusal.problems()));
            }
            Err(refusal)
        }
    }
}

fn in_one_line(problems: &Problems) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Ready {
    fn live(self, signals: Signals, inheritance: Option<Inheritance>) -> Exit {
        let Self { app, access_log, listeners, control, traffic, handover, invitation, log } = self;
        let (sender, commands) = mpsc::channel(WAITING_COMMANDS);
        let life = Life {
            app: Arc::new(app),
            access_log,
            handover,
            supervisor: Supervisor::from_environment(),
            traffic: traffic.handle().clone(),
            sender,
            taking_commands: Mutex::new(None),
            bond: Mutex::new(None),
            told_to_end: AtomicBool::new(false),
        };
        let events = Events { signals, commands };
        let exit = control.block_on(life.live(listeners, inheritance, events, invitation));
        traffic.shutdown_timeout(RUNTIME_ENDS_WITHIN);
        control.shutdown_timeout(RUNTIME_ENDS_WITHIN);
        drop(log);
        exit
    }
}

struct Life {
    app: Arc<App>,
    access_log: Option<Arc<AccessLog>>,
    handover: Option<Handover>,
    supervisor: Supervisor,
    traffic: tokio::runtime::Handle,
    /// Where commands go. Held for ever, so that the other end never sees an end of commands.
    sender: mpsc::Sender<Request>,
    /// The control socket's task.
    taking_commands: Mutex<Option<JoinHandle<()>>>,
    /// The way to the predecessor, while there may be one.
    bond: Mutex<Option<Bond>>,
    /// Whether a signal has asked this process to end after it had handed over.
    told_to_end: AtomicBool,
}

/// What the process is told from outside.
struct Events {
    signals: Signals,
    commands: mpsc::Receiver<Request>,
}

/// What ended the serving.
#[expect(clippy::large_enum_variant, reason = "there is one in the life of a process")]
enum End {
    /// A signal or command: drain, nobody follows.
    Stop,
    /// A successor accepts.
    Succeeded(Successor),
}

impl Life {
    async fn live(
        self,
        listeners: Listeners,
        inheritance: Option<Inheritance>,
        mut events: Events,
        invitation: Option<String>,
    ) -> Exit {
        let instead_of = inheritance.as_ref().map_or(InsteadOf::Nobody, |it| InsteadOf::Process(it.predecessor()));
        let inheritance = match await_turn(inheritance).await {
            Ok(inheritance) => inheritance,
            Err(exit) => return exit,
        };
        let doors = match self.open_doors(listeners) {
            Ok(doors) => doors,
            Err(error) => {
                log::error!("cannot serve: {error}");
                return Exit::Failed;
            }
        };
        // First the commands: whoever is told that this process accepts may send one at once.
        self.take_commands(instead_of).await;
        let bond = match inheritance.map(Inheritance::accepting).transpose() {
            Ok(bond) => bond,
            Err(denied) => {
                // Not a word to the supervisor: the predecessor is its main process.
                log::error!("{denied}");
                events.signals.take_if_raised(Signal::Terminate);
                self.drain(&doors, None, &mut events).await;
                return Exit::Failed;
            }
        };
        self.supervisor.ready();
        self.start_background();
        log::info!(event = "serving", pid = std::process::id(); "serving");
        if let Some(invitation) = invitation {
            cli::tell(invitation);
        }
        *self.bond.lock() = bond;
        self.serve(&doors, &mut events).await
    }

    /// Serves, hands over, takes back, drains; returns when it is over.
    async fn serve(&self, doors: &Arc<Doors>, events: &mut Events) -> Exit {
        loop {
            let watchdog = self.feed_watchdog();
            let end = self.wait_for_end(doors, events).await;
            // Whatever the end is, our own predecessor is not to take over again when this process is gone.
            let bond = self.bond.lock().take();
            if let Some(bond) = bond {
                bond.leave();
            }
            match end {
                End::Stop => {
                    self.supervisor.stopping();
                    self.ask_for_time();
                    self.app.terminating.store(true, Ordering::Relaxed);
                    self.drain(doors, None, events).await;
                    return Exit::Ok;
                }
                End::Succeeded(successor) => {
                    // The successor is watched from now on.
                    watchdog.abort();
                    let heir = successor.pid();
                    if self.follow(doors, successor, events).await {
                        log::info!(event = "handed-over"; "the new process serves; this one ends");
                        return Exit::Ok;
                    }
                    self.reopen(doors).await;
                    self.take_commands(InsteadOf::Process(heir)).await;
                    self.supervisor.ready();
                }
            }
        }
    }

    /// Serves again, at all entry points, as if there had been no successor.
    async fn reopen(&self, doors: &Arc<Doors>) {
        let again = doors.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || again.reopen()).await {
            log::error!("not all entry points are open again: {error}");
        }
    }

    /// Drains while the successor serves. Whether that is over; `false` if the successor died and this process is needed again.
    async fn follow(&self, doors: &Arc<Doors>, mut successor: Successor, events: &mut Events) -> bool {
        doors.hand_over(successor.unclaimed());
        let drain = self.drain(doors, Some(successor.pid()), events);
        let mut drain = pin!(drain);
        let departure = loop {
            let word = tokio::select! {
                () = &mut drain => return true,
                word = successor.word() => word,
            };
            match word {
                Word::Dropped(names) => doors.close_dropped(&names),
                Word::Gone(departure) => break departure,
            }
        };
        match departure {
            // It handed over itself or was stopped on purpose. In either case our sockets are of no more use, and nobody shall
            // wait in their queues.
            Departure::Left => {
                doors.let_go();
                drain.await;
                true
            }
            // It may have been killed while it left, too.
            Departure::Died(_) if self.told_to_end.load(Ordering::Relaxed) => {
                doors.let_go();
                drain.await;
                true
            }
            Departure::Died(how) => {
                log::error!(event = "successor-died"; "the new process died ({how}): serving again");
                false
            }
        }
    }

    async fn wait_for_end(&self, doors: &Arc<Doors>, events: &mut Events) -> End {
        loop {
            let (command, reply) = tokio::select! {
                signal = events.signals.next() => match signal {
                    Ok(Signal::Terminate | Signal::Interrupt | Signal::Quit) => return End::Stop,
                    Ok(Signal::Reload) => (Command::Reload, None),
                    Ok(Signal::ReopenLogs) => (Command::ReopenLogs, None),
                    Ok(Signal::Upgrade) => (Command::Upgrade, None),
                    Err(error) => {
                        log::error!("signals cannot be read any more: {error}");
                        return End::Stop;
                    }
                },
                Some(request) = events.commands.recv() => (request.command, Some(request.reply)),
            };
            let (answer, end) = self.carry_out(command, doors, &mut events.signals).await;
            if !answer.done {
                log::error!("{}", answer.message);
            }
            if let Some(reply) = reply {
                // Whoever asked may be gone.
                let _ = reply.send(answer);
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    async fn carry_out(&self, command: Command, doors: &Arc<Doors>, signals: &mut Signals) -> (Answer, Option<End>) {
        match command {
            Command::Reload => (self.reload(doors).await, None),
            Command::ReopenLogs => (self.reopen_logs(), None),
            Command::Status => (self.status(doors, "serving"), None),
            Command::Drain => (Answer::done("draining"), Some(End::Stop)),
            Command::Upgrade => match self.upgrade(doors, signals).await {
                Ok(successor) => {
                    let message = format!("the new process {} serves", successor.pid());
                    (Answer::done(message), Some(End::Succeeded(successor)))
                }
                Err(NotUpgraded::Failed(message)) => {
                    self.app.metrics.upgraded(Upgrade::Failed);
                    (Answer::refused(message), None)
                }
                Err(NotUpgraded::Stopped) => {
                    (Answer::refused("this process was told to end before the new one was ready"), Some(End::Stop))
                }
            },
        }
    }

    /// Reads every source again, applies what may change, and says how it went and what waits for an upgrade.
    async fn reload(&self, doors: &Arc<Doors>) -> Answer {
        self.supervisor.reloading();
        let answer = reload::reload(&self.app, doors).await;
        // Of what is closed here now a predecessor may have duplicates, as long as it drains.
        let dropped = doors.take_dropped();
        if let Some(bond) = &*self.bond.lock() {
            bond.drop_sockets(&dropped);
        }
        self.supervisor.ready();
        answer
    }

    fn reopen_logs(&self) -> Answer {
        let process = observe::log::reopen();
        let access = self.access_log.as_ref().map_or(Ok(()), |log| log.reopen());
        match process.and(access) {
            Ok(()) => Answer::done("log files are open again"),
            Err(error) => Answer::refused(format!("a log file cannot be opened: {error}")),
        }
    }

    fn status(&self, doors: &Doors, word: &str) -> Answer {
        let applied = self.app.status.applied();
        let ping = self.app.install().ping.as_ref().map(|ping| Pinged {
            entry_point: ping.entry_point.to_string(),
            address: doors.address(&ping.entry_point),
        });
        let detail = serde_json::json!({
            "configFile": self.app.file.as_deref().and_then(|file| file.canonicalize().ok()),
            "ping": ping,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "generation": applied.as_ref().map(|applied| applied.outcome.generation),
            "problems": applied.as_ref().map(|applied| applied.outcome.problems.len()),
            "connections": drain::Door::active(doors).to_string(),
        });
        Answer::done(word).with_detail(detail)
    }

    /// Starts the program on disk, hands the sockets over and waits until it accepts.
    async fn upgrade(&self, doors: &Arc<Doors>, signals: &mut Signals) -> Result<Successor, NotUpgraded> {
        let failed = |message: String| NotUpgraded::Failed(message);
        let handover =
            self.handover.as_ref().ok_or_else(|| failed("the program's file was not found at start".to_owned()))?;
        let sockets =
            doors.duplicates().map_err(|error| failed(format!("the sockets cannot be handed over: {error}")))?;
        let borrowed: Vec<_> =
            sockets.iter().map(|(name, socket): &(SocketName, OwnedFd)| (name.clone(), socket.as_fd())).collect();
        // Clients go on with their sessions; else all of them would make full handshakes with the new process at once.
        // And what authorities have said of certificates is shown without a gap.
        let bequest = Bequest { secrets: self.app.tickets.export(), notes: self.app.answers() };
        let started = Instant::now();
        let heir = tokio::select! {
            heir = handover.begin(&borrowed, &bequest) => heir,
            () = told_to_end(signals) => return Err(NotUpgraded::Stopped),
        };
        // Whoever asked twice meant this one.
        signals.take_if_raised(Signal::Upgrade);
        let heir = heir.map_err(|failure| failed(failure.to_string()))?;
        // Lines that wait in our buffer must not come after the new process's.
        if let Some(log) = &self.access_log {
            log.flush();
        }
        let pid = heir.pid();
        let successor = match heir.go().await {
            Ok(successor) => successor,
            Err(failure) => {
                // It may have come so far as to take the control socket, and to tell the supervisor.
                self.reopen(doors).await;
                self.take_commands(InsteadOf::Process(pid)).await;
                self.supervisor.ready();
                return Err(failed(failure.to_string()));
            }
        };
        // It may have read its configuration before what this signal is about was written.
        if signals.take_if_raised(Signal::Reload) {
            successor.tell_to_reload();
        }
        log::info!(event = "upgraded", milliseconds = started.elapsed().as_millis() as u64; "the new process {} accepts", successor.pid());
        self.app.metrics.upgraded(Upgrade::Done);
        Ok(successor)
    }

    /// Serves those who are there to the end. `heir` is the process that has taken over, if there is one.
    async fn drain(&self, doors: &Arc<Doors>, heir: Option<u32>, events: &mut Events) {
        let plan = options::drain(&self.app.install());
        let cause = heir.map_or(Cause::Stop, |_| Cause::HandedOver);
        log::info!(event = "draining"; "draining: {}", drain::Door::active(&**doors));
        let hurry = self.attend(doors, heir, events);
        let outcome = drain::run(Drain::new(plan, cause, Instant::now()), doors.clone(), hurry).await;
        if let drain::Outcome::Cut(left) = outcome {
            log::warn!(event = "cut"; "time is up, cut: {left}");
        }
    }

    /// A supervisor that stops the service shall wait for the end of the drain.
    fn ask_for_time(&self) {
        self.supervisor.extend_timeout(options::drain(&self.app.install()).longest().saturating_add(ENDS_WITHIN));
    }

    /// Hears what is asked of a process that drains. Resolves when it is to end at once: at the second signal to end.
    ///
    /// Whoever stops the service tells all of its processes. For a predecessor that is the first signal of this kind, and its
    /// clients have the same right to their answers as those of its successor.
    async fn attend(&self, doors: &Doors, heir: Option<u32>, events: &mut Events) {
        let mut told_to_end = heir.is_none();
        loop {
            tokio::select! {
                signal = events.signals.next() => match signal {
                    Ok(signal) if signal.is_end() => {
                        if std::mem::replace(&mut told_to_end, true) {
                            return;
                        }
                        self.told_to_end.store(true, Ordering::Relaxed);
                        self.ask_for_time();
                    }
                    Ok(Signal::ReopenLogs) => {
                        let answer = self.reopen_logs();
                        if !answer.done {
                            log::error!("{}", answer.message);
                        }
                    }
                    Ok(signal) => log::info!("{signal:?} is of no use to a process that drains"),
                    Err(_) => std::future::pending().await,
                },
                Some(request) = events.commands.recv() => {
                    let answer = match (request.command, heir) {
                        (Command::ReopenLogs, _) => self.reopen_logs(),
                        (Command::Status, _) => self.status(doors, "draining"),
                        (Command::Drain, _) => Answer::done("draining"),
                        (Command::Reload | Command::Upgrade, Some(heir)) => {
                            Answer::refused(format!("process {heir} has taken over in the meantime; ask again"))
                        }
                        (Command::Reload | Command::Upgrade, None) => Answer::refused("this process is ending"),
                    };
                    let _ = request.reply.send(answer);
                }
            }
        }
    }

    fn open_doors(&self, listeners: Listeners) -> std::io::Result<Arc<Doors>> {
        let opener = Opener::new(self.app.clone(), self.access_log.clone(), self.traffic.clone());
        Doors::open(self.app.clone(), opener, listeners)
    }

    /// Providers and the pipeline.
    fn start_background(&self) {
        let throttle = self.app.install().providers.providers_throttle_duration.or_zero();
        tokio::spawn(self.app.pipeline.clone().run(throttle));
        tokio::spawn(self.app.pipeline.clone().watch_files());
        self.app.ask_responders();
        self.app.watch_providers();
    }

    fn feed_watchdog(&self) -> JoinHandle<()> {
        let supervisor = self.supervisor.clone();
        let traffic = self.traffic.clone();
        tokio::spawn(async move {
            // The probe runs where requests run: workers that hang leave the watchdog hungry.
            supervisor
                .feed_watchdog(systemd::watchdog_interval(), || {
                    let probe = traffic.spawn(async { true });
                    async move { probe.await.unwrap_or(false) }
                })
                .await;
        })
    }

    /// Binds the control socket, also when it was ours before and a successor had taken it.
    async fn take_commands(&self, instead_of: InsteadOf) {
        let before = self.taking_commands.lock().take();
        if let Some(task) = before {
            task.abort();
            // It is over only when its socket is gone, which must not be after the new one has come.
            let _ = task.await;
        }
        let install = self.app.install();
        let setting = install.control.socket.as_deref().map(Path::new);
        match command::socket_path(setting).and_then(|path| Control::bind(&path, instead_of)) {
            Ok(control) => {
                log::info!(event = "control"; "commands are taken at {}", control.path().display());
                *self.taking_commands.lock() = Some(tokio::spawn(control.serve(self.sender.clone())));
            }
            Err(problem) => log::warn!("no commands will be taken: {problem}"),
        }
    }
}

/// Why an upgrade came to nothing.
enum NotUpgraded {
    /// It failed; this process serves on.
    Failed(String),
    /// A signal came that ends this process.
    Stopped,
}

/// A successor says that it is ready and waits for the word. Anybody else goes on at once.
async fn await_turn(inheritance: Option<Inheritance>) -> Result<Option<Inheritance>, Exit> {
    let Some(mut inheritance) = inheritance else { return Ok(None) };
    if let Err(error) = inheritance.ready() {
        log::error!("cannot tell the old process that we are ready: {error}");
        return Err(Exit::Failed);
    }
    match inheritance.wait_go().await {
        Ok(_) => Ok(Some(inheritance)),
        Err(denied) => {
            log::error!("{denied}");
            Err(Exit::Failed)
        }
    }
}

/// Resolves when a signal asks to end. Others wait for whoever asks for them.
async fn told_to_end(signals: &mut Signals) {
    if signals.next_end().await.is_err() {
        std::future::pending().await
    }
}
