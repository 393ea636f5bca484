//! `log` as written.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::problem::{Problem, Problems};

/// `log`: what the process says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Lines below this level are not written. `INFO` unless set: Traefik's own default, `ERROR`, keeps warnings about the
    /// configuration from the people who could act on them.
    pub level: Level,
    /// `common` is text, `json` one object per line. Unless set: text on a terminal, JSON otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Switches colours off, which text on a terminal has otherwise.
    pub no_color: bool,
    /// The file that lines are appended to. Standard output if empty.
    pub file_path: String,
    /// The size at which the file is set aside and a new one begun, in megabytes. 0 means 100.
    pub max_size: u64,
    /// Files that were set aside are removed after so many days. 0: never.
    pub max_age: u64,
    /// So many files that were set aside are kept. 0: all.
    pub max_backups: u64,
    /// Whether files that were set aside are compressed with gzip.
    pub compress: bool,
    /// OpenTelemetry export. Not available: refused by [`Settings::check`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Value>,
}

impl Settings {
    /// What cannot act, and what is likely not meant.
    pub fn check(&self) -> Problems {
        let mut problems = Problems::new();
        if self.otlp.is_some() {
            problems.push(
                Problem::at("otlp", "logs cannot be sent to an OpenTelemetry collector yet")
                    .with_help("remove the key; a collector can read the JSON lines from standard output or the file"),
            );
        }
        let rotates = self.max_size > 0 || self.max_age > 0 || self.max_backups > 0 || self.compress;
        if rotates && self.file_path.is_empty() {
            problems.push(Problem::warning("filePath", "rotation has no effect: lines go to standard output"));
        }
        problems
    }
}

/// How much the process says. All of Traefik's names are read, in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing below an error that ends the process; nothing of ours is, so it acts as `ERROR`.
    Panic,
    /// Acts as `ERROR`, as does `PANIC`.
    Fatal,
    /// What failed.
    Error,
    /// What probably was not meant.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// Why it happened.
    Debug,
    /// Every step.
    Trace,
}

impl Level {
    const NAMES: [(&'static str, Self); 8] = [
        ("PANIC", Self::Panic),
        ("FATAL", Self::Fatal),
        ("ERROR", Self::Error),
        ("WARN", Self::Warn),
        ("WARNING", Self::Warn),
        ("INFO", Self::Info),
        ("DEBUG", Self::Debug),
        ("TRACE", Self::Trace),
    ];

    /// Reads a name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, level)| *level)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("INFO", |(name, _)| name)
    }

    /// What the facade calls it.
    pub fn filter(self) -> ::log::LevelFilter {
        match self {
            Self::Panic | Self::Fatal | Self::Error => ::log::LevelFilter::Error,
            Self::Warn => ::log::LevelFilter::Warn,
            Self::Info => ::log::LevelFilter::Info,
            Self::Debug => ::log::LevelFilter::Debug,
            Self::Trace => ::log::LevelFilter::Trace,
        }
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "unknown level `{text}`: expected TRACE, DEBUG, INFO, WARN, ERROR, FATAL or PANIC"
            ))
        })
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text for people.
    Common,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_level_of_traefik() {
        for (text, level) in [
            ("DEBUG", Level::Debug),
            ("debug", Level::Debug),
            ("Warning", Level::Warn),
            ("FATAL", Level::Fatal),
            ("PANIC", Level::Panic),
            ("trace", Level::Trace),
        ] {
            assert_eq!(Level::parse(text), Some(level), "{text}");
        }
        assert_eq!(Level::parse("loud"), None);
    }

    #[test]
    fn nothing_written_means_info_on_standard_output() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!((settings.level, settings.format), (Level::Info, None));
        assert!(serde_json::from_str::<Settings>(r#"{"colour":true}"#).is_err());
    }

    #[test]
    fn what_cannot_act_is_refused() {
        let settings: Settings = serde_json::from_str(r#"{"otlp":{},"maxSize":3}"#).unwrap();
        let paths: Vec<_> = settings.check().into_iter().map(|p| (p.path.clone(), p.is_error())).collect();
        assert_eq!(paths, [("otlp".to_owned(), true), ("filePath".to_owned(), false)]);
    }
}
