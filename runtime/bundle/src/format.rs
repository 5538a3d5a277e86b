//! Sections of the file.
