//! Proof that a manifest stays in bounds.
