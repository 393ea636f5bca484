//! Draining: how a process stops serving without hurting anyone, as a plan over time.
//!
//! A plain stop first tells clients (`Connection: close`, readiness off) while it still accepts, because load balancers need time to
//! notice; with a successor there is nothing to notice and accepting stops at once. Then idle connections close, spread over a while,
//! because a client may be sending into one at this moment; then requests get their time, then tunnels theirs. Whoever is left is cut.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The entry points, as a drain sees them. None of these waits.
pub trait Door: Send + Sync {
    /// Stops accepting; the sockets stay open and keep queueing, so that accepting can resume.
    fn stop_accepting(&self);
    /// Takes those that have connected already and closes the sockets: nobody follows, so whoever comes later shall go elsewhere
    /// and not wait in vain.
    fn close(&self);
    /// Accepts again, and idle connections stay open again.
    fn resume_accepting(&self);
    /// While draining, every response closes its connection and readiness is off.
    fn set_draining(&self, draining: Draining);
    /// Closes the connections that wait for a request, each at a moment of its own within `spread`. Those that become idle later
    /// close at once.
    fn close_idle(&self, spread: Duration);
    /// Ends what is still there: `Requests` leaves tunnels alone.
    fn cut(&self, what: Cut);
    /// What is still there.
    fn active(&self) -> Counts;
}

/// Whether responses announce the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draining {
    /// They do.
    On,
    /// They do not (any more).
    Off,
}

/// What to end by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Connections with requests, and idle ones.
    Requests,
    /// Everything.
    All,
}

/// What a door still serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that wait for a request.
    pub idle: usize,
    /// Requests, and connections on the way to one (handshakes, heads half read).
    pub requests: usize,
    /// WebSockets, TCP connections and UDP sessions.
    pub tunnels: usize,
}

impl Counts {
    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            idle: self.idle.saturating_add(other.idle),
            requests: self.requests.saturating_add(other.requests),
            tunnels: self.tunnels.saturating_add(other.tunnels),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} idle, {} requests, {} tunnels", self.idle, self.requests, self.tunnels)
    }
}

/// Why we drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process is to end and nobody follows.
    Stop,
    /// A successor accepts already.
    HandedOver,
}

/// How long each part takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Traefik's `requestAcceptGraceTimeout`: go on accepting for so long before a stop.
    pub accept_grace: Duration,
    /// Idle connections close over this time. It should exceed the pauses between the requests of one client.
    pub idle_spread: Duration,
    /// Traefik's `graceTimeOut`: requests under way may take so long after accepting stopped.
    pub requests: Duration,
    /// Tunnels may live so long after accepting stopped; at least as long as requests.
    pub tunnels: Duration,
}

impl Plan {
    /// How long a stop takes if nobody ends before his time.
    pub fn longest(&self) -> Duration {
        self.accept_grace.saturating_add(self.requests.max(self.idle_spread).max(self.tunnels))
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            accept_grace: Duration::ZERO,
            idle_spread: Duration::from_secs(2),
            requests: Duration::from_secs(10),
            tunnels: Duration::from_secs(60),
        }
    }
}

/// One thing to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say in every response that the connection closes.
    Announce,
    /// Stop accepting.
    StopAccepting,
    /// Close idle connections over this time.
    CloseIdle(Duration),
    /// Time is up for these.
    Cut(Cut),
    /// It is over.
    End(Outcome),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everyone was done.
    Empty,
    /// Time was up, or somebody was in a hurry; so many were cut.
    Cut(Counts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    LameDuck,
    Stopped,
    Requests,
    Tunnels,
    Over,
}

/// A drain under way: a state machine over time that decides, and does nothing itself.
#[derive(Clone, Debug)]
pub struct Drain {
    plan: Plan,
    cause: Cause,
    phase: Phase,
    accept_until: Instant,
    settled_at: Instant,
    requests_until: Instant,
    tunnels_until: Instant,
}

impl Drain {
    /// Begins now.
    pub fn new(plan: Plan, cause: Cause, now: Instant) -> Self {
        let accept_until = match cause {
            Cause::Stop => now + plan.accept_grace,
            Cause::HandedOver => now,
        };
        let requests = plan.requests.max(plan.idle_spread);
        Self {
            plan,
            cause,
            phase: Phase::Begin,
            accept_until,
            settled_at: accept_until + SETTLE,
            requests_until: accept_until + requests,
            tunnels_until: accept_until + requests.max(plan.tunnels),
        }
    }

    /// What to do now, given who is still there. Call again until there is nothing more, and then at [`Drain::wake_at`] or sooner.
    pub fn step(&mut self, now: Instant, left: Counts) -> Option<Step> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::LameDuck;
                Some(Step::Announce)
            }
            Phase::LameDuck => {
                if now < self.accept_until {
                    return None;
                }
                self.phase = Phase::Stopped;
                Some(Step::StopAccepting)
            }
            Phase::Stopped => {
                self.phase = Phase::Requests;
                Some(Step::CloseIdle(self.requests_until.saturating_duration_since(now).min(self.plan.idle_spread)))
            }
            Phase::Requests | Phase::Tunnels => self.close(now, left),
            Phase::Over => None,
        }
    }

    /// When something is due, whatever the counts do; `None` when it is over.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Begin | Phase::LameDuck | Phase::Stopped => Some(self.accept_until),
            Phase::Requests => Some(self.requests_until),
            Phase::Tunnels => Some(self.tunnels_until),
            Phase::Over => None,
        }
    }

    /// Somebody is in a hurry: everything is due now.
    pub fn hurry(&mut self, now: Instant) {
        for due in [&mut self.accept_until, &mut self.settled_at, &mut self.requests_until, &mut self.tunnels_until] {
            *due = (*due).min(now);
        }
    }

    fn close(&mut self, now: Instant, left: Counts) -> Option<Step> {
        if left.is_empty() && now >= self.settled_at {
            self.phase = Phase::Over;
            return Some(Step::End(Outcome::Empty));
        }
        if now >= self.tunnels_until {
            self.phase = Phase::Over;
            return Some(Step::End(Outcome::Cut(left)));
        }
        if now >= self.requests_until && self.phase == Phase::Requests {
            self.phase = Phase::Tunnels;
            return Some(Step::Cut(Cut::Requests));
        }
        None
    }
}

/// A connection accepted while we stopped is counted within this time; nobody is not nobody before.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the counts are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Drains `door`. When `hurry` resolves, whoever is left is cut at once. Drop the future to abandon the drain, and call [`resume`].
pub async fn run(mut drain: Drain, door: Arc<dyn Door>, hurry: impl Future<Output = ()> + Send) -> Outcome {
    tokio::pin!(hurry);
    let mut hurried = false;
    loop {
        let now = tokio::time::Instant::now().into_std();
        while let Some(step) = drain.step(now, door.active()) {
            match step {
                Step::Announce => door.set_draining(Draining::On),
                Step::StopAccepting => match drain.cause {
                    Cause::Stop => door.close(),
                    Cause::HandedOver => door.stop_accepting(),
                },
                Step::CloseIdle(spread) => door.close_idle(spread),
                Step::Cut(what) => door.cut(what),
                Step::End(outcome) => {
                    door.cut(Cut::All);
                    return outcome;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = &mut hurry, if !hurried => {
                hurried = true;
                drain.hurry(tokio::time::Instant::now().into_std());
            }
        }
    }
}

/// Undoes an abandoned drain: the heir died, this process serves again.
pub fn resume(door: &dyn Door) {
    door.set_draining(Draining::Off);
    door.resume_accepting();
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    const PLAN: Plan = Plan {
        accept_grace: Duration::from_secs(5),
        idle_spread: Duration::from_secs(2),
        requests: Duration::from_secs(10),
        tunnels: Duration::from_secs(30),
    };

    fn counts(idle: usize, requests: usize, tunnels: usize) -> Counts {
        Counts { idle, requests, tunnels }
    }

    /// Runs a drain over seconds: `left` says who is there at a time. Yields `second: step`.
    fn check(cause: Cause, left: impl Fn(u64) -> Counts, hurry_at: Option<u64>, expected: &[(u64, Step)]) {
        let begin = Instant::now();
        let mut drain = Drain::new(PLAN, cause, begin);
        let mut steps = Vec::new();
        for second in 0..100 {
            let now = begin + Duration::from_secs(second);
            if hurry_at == Some(second) {
                drain.hurry(now);
            }
            while let Some(step) = drain.step(now, left(second)) {
                steps.push((second, step));
            }
        }
        assert_eq!(steps, expected);
        assert_eq!(drain.wake_at(), None);
    }

    #[test]
    fn a_stop_announces_then_stops_accepting_then_ends_when_empty() {
        use Step::*;
        let spread = PLAN.idle_spread;
        let left = |second| if second < 7 { counts(1, 1, 0) } else { Counts::default() };
        let steps = [(0, Announce), (5, StopAccepting), (5, CloseIdle(spread)), (7, End(Outcome::Empty))];
        check(Cause::Stop, left, None, &steps);
        let steps = [(0, Announce), (0, StopAccepting), (0, CloseIdle(spread)), (7, End(Outcome::Empty))];
        check(Cause::HandedOver, left, None, &steps);
    }

    #[test]
    fn nobody_there_ends_it_after_a_moment() {
        use Step::*;
        let steps = [(0, Announce), (0, StopAccepting), (0, CloseIdle(PLAN.idle_spread)), (1, End(Outcome::Empty))];
        check(Cause::HandedOver, |_| Counts::default(), None, &steps);
    }

    #[test]
    fn requests_then_tunnels_run_out_of_time() {
        use Step::*;
        let left = |second| if second <= 10 { counts(0, 2, 3) } else { counts(0, 0, 3) };
        let steps = [
            (0, Announce),
            (0, StopAccepting),
            (0, CloseIdle(PLAN.idle_spread)),
            (10, Cut(super::Cut::Requests)),
            (30, End(Outcome::Cut(counts(0, 0, 3)))),
        ];
        check(Cause::HandedOver, left, None, &steps);
    }

    #[test]
    fn a_hurry_ends_it_in_any_phase() {
        use Step::*;
        let all = counts(1, 2, 3);
        let rest = |at| [(at, StopAccepting), (at, CloseIdle(Duration::ZERO)), (at, End(Outcome::Cut(all)))];
        let mut lame_duck = vec![(0, Announce)];
        lame_duck.extend(rest(3));
        check(Cause::Stop, |_| all, Some(3), &lame_duck);
        let closing =
            [(0, Announce), (5, StopAccepting), (5, CloseIdle(PLAN.idle_spread)), (6, End(Outcome::Cut(all)))];
        check(Cause::Stop, |_| all, Some(6), &closing);
    }

    #[derive(Default)]
    struct Scripted {
        calls: Mutex<Vec<&'static str>>,
        looks: Mutex<usize>,
    }

    impl Door for Scripted {
        fn stop_accepting(&self) {
            self.calls.lock().push("stop");
        }
        fn close(&self) {
            self.calls.lock().push("close");
        }
        fn resume_accepting(&self) {
            self.calls.lock().push("resume");
        }
        fn set_draining(&self, draining: Draining) {
            self.calls.lock().push(if draining == Draining::On { "on" } else { "off" });
        }
        fn close_idle(&self, _: Duration) {
            self.calls.lock().push("idle");
        }
        fn cut(&self, what: Cut) {
            self.calls.lock().push(if what == Cut::All { "all" } else { "requests" });
        }
        fn active(&self) -> Counts {
            let mut looks = self.looks.lock();
            *looks += 1;
            counts(0, usize::from(*looks < 20), 0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_driver_does_the_steps_and_a_drain_can_be_undone() {
        let door = Arc::new(Scripted::default());
        let plan = Plan { accept_grace: Duration::ZERO, ..PLAN };
        let now = tokio::time::Instant::now().into_std();
        let outcome = run(Drain::new(plan, Cause::HandedOver, now), door.clone(), std::future::pending()).await;
        assert_eq!(outcome, Outcome::Empty);
        resume(&*door);
        assert_eq!(*door.calls.lock(), ["on", "stop", "idle", "all", "off", "resume"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_process_that_does_not_come_back() {
        let door = Arc::new(Scripted::default());
        let now = tokio::time::Instant::now().into_std();
        run(Drain::new(PLAN, Cause::Stop, now), door.clone(), std::future::pending()).await;
        assert_eq!(*door.calls.lock(), ["on", "close", "idle", "all"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_driver_hurries() {
        let door = Arc::new(Scripted::default());
        let now = tokio::time::Instant::now().into_std();
        let outcome = run(Drain::new(PLAN, Cause::Stop, now), door, std::future::ready(())).await;
        assert_eq!(outcome, Outcome::Cut(counts(0, 1, 0)));
    }
}
