//! Reads the command line, runs it, and maps the end to an exit code.

use std::process::ExitCode;

use portcullis::cli::{self, Cli, ConfigVerb, Exit, Verb};
use portcullis::process::Signals;
use portcullis::{app, check, demo, explain, health};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: a signal that comes before the handlers stand would end the process.
    let signals = Signals::install();
    memory::be_frugal();
    let cli = match Cli::read(std::env::args()) {
        Ok(cli) => cli,
        Err(message) => {
            // Nobody is left to be told if the terminal is gone.
            let _ = message.print();
            return if message.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    // Installed before anything of Pingora's, which would otherwise install its own choice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("portcullis: signals cannot be handled: {error}");
            return Exit::Failed.into();
        }
    };
    // Who only looks or asks is ended by Ctrl-C like any program.
    if !cli.verb.lasts()
        && let Err(error) = signals.release()
    {
        eprintln!("portcullis: signals cannot be handled: {error}");
        return Exit::Failed.into();
    }
    carry_out(cli.verb, signals).into()
}

fn carry_out(verb: Verb, signals: Signals) -> Exit {
    match verb {
        Verb::Run(arguments) => {
            app::run_flags(&arguments.flags, signals, app::Memory { give_back: memory::give_back, tidy: memory::tidy })
        }
        Verb::Demo(arguments) => demo::run(&arguments, signals),
        Verb::Whoami(arguments) => demo::whoami::run(&arguments, signals),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Healthcheck(arguments) => health::ask(&arguments.flags),
        Verb::Version(arguments) => {
            cli::print_version(&arguments);
            Exit::Ok
        }
        Verb::Reload(arguments) => cli::send(&arguments, portcullis::process::command::Command::Reload),
        Verb::Upgrade(arguments) => cli::send(&arguments, portcullis::process::command::Command::Upgrade),
        Verb::Config(ConfigVerb::Print(arguments)) => check::print_config(&arguments.flags),
        Verb::Config(ConfigVerb::Schema) => check::print_schema(),
        Verb::Completions(arguments) => {
            cli::print_completions(arguments.shell);
            Exit::Ok
        }
        Verb::Man => match cli::print_man() {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Failed,
        },
    }
}

/// What the allocator keeps of memory that is free. Reading a large configuration takes many times of what stays of it.
#[allow(unsafe_code)]
mod memory {
    #[cfg(feature = "mimalloc")]
    mod allocator {
        use std::cell::Cell;
        use std::ffi::{c_int, c_long};
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::time::{Duration, Instant};

        /// `mi_option_purge_delay`: for how many milliseconds free memory is kept.
        const PURGE_DELAY: c_int = 15;
        /// What it is, unless `MIMALLOC_PURGE_DELAY` says something else.
        const DEFAULT: c_long = 1000;
        /// Whether [`be_frugal`] has changed it.
        static CHANGED: AtomicBool = AtomicBool::new(false);
        /// How often a thread looks for what it has free: it takes microseconds where nothing is, and milliseconds after a crowd.
        const TIDY: Duration = Duration::from_secs(5);

        thread_local! {
            static TIDY_AT: Cell<Option<Instant>> = const { Cell::new(None) };
        }

        unsafe extern "C" {
            fn mi_option_get(option: c_int) -> c_long;
            fn mi_option_set(option: c_int, value: c_long);
            fn mi_collect(force: bool);
        }

        pub(super) fn be_frugal() {
            // SAFETY: a number goes in and a number comes out; it is the first thread, and there is no other yet.
            unsafe {
                // Not for longer than the start: each request would cost half as much again.
                if mi_option_get(PURGE_DELAY) == DEFAULT {
                    mi_option_set(PURGE_DELAY, 0);
                    CHANGED.store(true, Ordering::Relaxed);
                }
            }
        }

        pub(super) fn give_back() {
            // SAFETY: as above, with nothing but a number written that other threads may see now or later.
            unsafe {
                if CHANGED.swap(false, Ordering::Relaxed) {
                    mi_option_set(PURGE_DELAY, DEFAULT);
                }
                mi_collect(true);
            }
        }

        pub(super) fn tidy() {
            let now = Instant::now();
            let is_time = TIDY_AT.get().is_some_and(|at| at <= now);
            if is_time || TIDY_AT.get().is_none() {
                TIDY_AT.set(Some(now + TIDY));
            }
            if is_time {
                // SAFETY: any thread may call it at any time.
                unsafe { mi_collect(false) };
            }
        }
    }

    #[cfg(all(not(feature = "mimalloc"), target_os = "linux", target_env = "gnu"))]
    mod allocator {
        use std::ffi::c_int;

        /// `M_TRIM_THRESHOLD`.
        const TRIM_THRESHOLD: c_int = -1;
        /// How much free memory may stay at the end of each heap. glibc's own default, but what is set does not grow to 64 MB with
        /// the first large allocation.
        const KEPT_BYTES: c_int = 128 << 10;

        unsafe extern "C" {
            fn mallopt(option: c_int, value: c_int) -> c_int;
            fn malloc_trim(kept: usize) -> c_int;
        }

        pub(super) fn be_frugal() {
            // Where the system gives them to everybody, they are filled up with memory that was given back. mimalloc says so itself.
            let _ = rustix::thread::disable_transparent_huge_pages(true);
            // SAFETY: two numbers go in; it is the first thread, and there is no other yet.
            unsafe { mallopt(TRIM_THRESHOLD, KEPT_BYTES) };
        }

        pub(super) fn give_back() {
            // SAFETY: any thread may call it at any time.
            unsafe { malloc_trim(0) };
        }

        /// It would stop all threads for a look at everything that is free, so that stays for who comes next.
        pub(super) fn tidy() {}
    }

    #[cfg(all(not(feature = "mimalloc"), not(all(target_os = "linux", target_env = "gnu"))))]
    mod allocator {
        pub(super) fn be_frugal() {}

        pub(super) fn give_back() {}

        pub(super) fn tidy() {}
    }

    /// Until the first configuration stands, nothing that is free is kept.
    pub(super) fn be_frugal() {
        allocator::be_frugal();
    }

    /// Gives what is free back to the system, and from now on does so in good time instead of at once.
    pub(super) fn give_back() {
        allocator::give_back();
    }

    /// Gives back what this thread has had free for a while, if it is time for a look.
    pub(super) fn tidy() {
        allocator::tidy();
    }
}
