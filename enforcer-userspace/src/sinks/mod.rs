//! Where events go.

mod file;

pub(crate) use file::FileSink;
