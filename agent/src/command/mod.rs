//! Commands beside `run`, `status` and the tools: what each prints, apart from who prints it.

mod stopped;
pub mod backfill;
pub mod check;
pub mod decode;
pub mod retry;
pub mod topics;

/// What a command has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Data, for standard output.
    pub data: String,
    /// All else, for standard error, a sentence each.
    pub notes: Vec<String>,
    /// Whether it failed.
    pub failed: bool,
}
