//! Which entry points serve a router: those that it names.

use smallvec::SmallVec;

use crate::problem::Problem;
use crate::units::Name;

/// Positions of entry points, each once.
pub(super) type Positions = SmallVec<[usize; 4]>;

/// The positions of the entry points that a router names, and what is wrong with the names. `position` finds one by its name,
/// `help` says which there are.
pub(super) fn find(
    wanted: &[Name],
    position: impl Fn(&str) -> Option<usize>,
    help: impl Fn() -> String,
) -> (Positions, Vec<Problem>) {
    let (mut found, mut problems) = (Positions::new(), Vec::new());
    for (at, name) in wanted.iter().enumerate() {
        match position(name.as_str()) {
            Some(position) if found.contains(&position) => {}
            Some(position) => found.push(position),
            None => {
                let problem = Problem::at(format!("entryPoints[{at}]"), format!("entryPoint \"{name}\" doesn't exist"));
                problems.push(problem.with_help(help()));
            }
        }
    }
    if found.is_empty() {
        problems.push(Problem::at("entryPoints", "no valid entryPoint for this router"));
    }
    (found, problems)
}
