//! STUB
use super::Provider;
use crate::control::Updates;
use crate::problem::Problem;
use std::sync::Arc;
/// STUB
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    filename: String,
}
/// STUB
pub struct File {
    settings: Settings,
}
impl Settings {
    /// x
    pub fn only(path: &std::path::Path) -> Self {
        Self { filename: path.display().to_string() }
    }
}
impl File {
    /// x
    pub fn new(settings: Settings) -> Result<Self, Problem> {
        Ok(Self { settings })
    }
}
impl Provider for File {
    fn name(&self) -> &str {
        "file"
    }
    fn read(&self, updates: &Updates) {
        let path = std::path::Path::new(&self.settings.filename);
        let Ok(text) = std::fs::read_to_string(path) else { return };
        let Some(format) = crate::config::Format::of_path(path) else { return };
        match crate::config::load::published(&text, format, &self.settings.filename, "file") {
            Ok((routing, problems)) => updates.publish(Arc::new(routing), problems, None),
            Err(problems) => updates.fail(problems),
        }
    }
    fn watch(self: Arc<Self>, _: Updates) -> Result<(), Problem> {
        Ok(())
    }
}
