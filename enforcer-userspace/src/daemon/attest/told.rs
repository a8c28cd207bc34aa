//! By what the kernel tells a file.

use std::fs::File;

use enforcer_common::image::ImageId;

use super::measurer::Untold;
use crate::{measure::Stamp, procfs};

/// A file as the kernel tells it at an exec; if that was seen, it must be the same.
pub(super) fn image_of(
    file: &File,
    stamp: &Stamp,
    pid: Option<u32>,
    seen: Option<ImageId>,
) -> Result<ImageId, Untold> {
    let kernel = procfs::kernel_file(file, pid)?;
    let id = |device| ImageId {
        inode: kernel.inode,
        size_bytes: stamp.size_bytes,
        ctime_s: stamp.ctime_s,
        mtime_s: stamp.mtime_s,
        ctime_ns: stamp.ctime_ns,
        mtime_ns: stamp.mtime_ns,
        device,
        pad: 0,
    };
    // A file in no directory has no mount that is listed: then its device is what `stat` says.
    let candidates = [kernel.device, Some(stamp.kernel_device())].map(|device| device.map(id));
    let mut candidates = candidates.into_iter().flatten();
    match seen {
        None => candidates.next().ok_or(Untold::OtherFile),
        Some(seen) => candidates.find(|id| *id == seen).ok_or(Untold::OtherFile),
    }
}
