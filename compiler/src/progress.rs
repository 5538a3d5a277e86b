//! How long work tells how far it is; what is shown is the command's business.

/// Receives the progress of a stage, possibly from several threads.
pub trait Progress: Sync {
    /// A stage of `total` bytes begins; 0 if its length is not known.
    fn stage(&self, name: &str, total: u64);
    /// Bytes of the stage are done.
    fn advance(&self, bytes: u64);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}
}
