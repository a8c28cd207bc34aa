//! `file`, `inode`, `super_block` and `dentry`.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel_str};
use enforcer_common::guard::ANONYMOUS_NAME_LEN;

use super::Place;
use crate::config::loaded;

/// A pointer to a `file` that the verifier knows as such: a hook's argument.
#[derive(Clone, Copy)]
pub(crate) struct File(*const c_void);

/// Likewise to an `inode`.
#[derive(Clone, Copy)]
pub(crate) struct Inode(*const c_void);

impl File {
    /// # Safety
    ///
    /// `pointer` must be a `file *` argument of the running hook.
    #[inline(always)]
    pub(crate) const unsafe fn from_argument(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *const c_void {
        self.0
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        Inode(load(self.0, loaded!(guard.file_inode)))
    }

    /// Whether it is open for writing.
    #[inline(always)]
    pub(crate) fn is_writable(self) -> bool {
        const FMODE_WRITE: u32 = 2;
        load::<u32>(self.0, loaded!(guard.file_mode)) & FMODE_WRITE != 0
    }

    /// The address of its `dentry`; 0 if it cannot be read.
    #[inline(always)]
    pub(crate) fn dentry(self) -> u64 {
        let dentry: *const c_void = load(self.0, loaded!(guard.file_dentry));
        Place::of(dentry).map_or(0, Place::address)
    }

    /// The beginning of its name; `None` if it cannot be read.
    #[inline(always)]
    pub(crate) fn name_start(self) -> Option<[u8; ANONYMOUS_NAME_LEN]> {
        let name = Place::at_address(self.dentry()).follow(loaded!(guard.dentry_name))?;
        let mut start = [0; ANONYMOUS_NAME_LEN];
        copy_text(name, &mut start)?;
        // The last of them is a zero that the helper puts there.
        if start[ANONYMOUS_NAME_LEN - 2] != 0 {
            start[ANONYMOUS_NAME_LEN - 1] = name.load(ANONYMOUS_NAME_LEN as u32 - 1)?;
        }
        Some(start)
    }
}

impl Inode {
    /// # Safety
    ///
    /// `pointer` must be an `inode *` argument of the running hook.
    #[inline(always)]
    pub(crate) const unsafe fn from_argument(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub(crate) fn is_socket(self) -> bool {
        const S_IFSOCK: u16 = 0o140_000;
        self.kind() == S_IFSOCK
    }

    /// The number of the character device that it stands for; 0 if it is none.
    #[inline(always)]
    pub(crate) fn character_device(self) -> u32 {
        const S_IFCHR: u16 = 0o020_000;
        if self.kind() == S_IFCHR { load(self.0, loaded!(guard.inode_rdev)) } else { 0 }
    }

    /// What kind of file system it is on.
    #[inline(always)]
    pub(crate) fn file_system(self) -> u64 {
        let super_block: *const c_void = load(self.0, loaded!(guard.inode_sb));
        load(super_block, loaded!(guard.super_block_magic))
    }

    /// Of an inode of procfs: whether it is of a process, as those below `/proc/PID` are, except for its network namespace's.
    #[inline(always)]
    pub(crate) fn is_of_process(self) -> bool {
        let inode = Place::of(self.0).map(|inode| inode.around(loaded!(guard.proc_inode_vfs_inode)));
        inode.and_then(|inode| inode.follow(loaded!(guard.proc_inode_pid))).is_some()
    }

    #[inline(always)]
    fn kind(self) -> u16 {
        const S_IFMT: u16 = 0o170_000;
        load::<u16>(self.0, loaded!(guard.inode_mode)) & S_IFMT
    }
}

/// Reads the name of the `dentry` at an address, as far as there is room; its length, or `None` if it cannot be read.
#[inline(always)]
pub(crate) fn dentry_name<const N: usize>(dentry: u64, to: &mut [u8; N]) -> Option<u32> {
    copy_text(Place::at_address(dentry).follow(loaded!(guard.dentry_name))?, to)
}

/// Copies text up to its closing zero; its length.
#[inline(always)]
fn copy_text<const N: usize>(from: Place, to: &mut [u8; N]) -> Option<u32> {
    let from = from.address() as *const c_void;
    // SAFETY: the destination holds N bytes; a bad source makes the helper fail, not fault.
    let read = unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), N as u32, from) };
    if read > 0 { Some(read as u32 - 1) } else { None }
}

#[inline(always)]
fn load<T: Copy>(from: *const c_void, offset: u32) -> T {
    let field = from.cast::<u8>().wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the verifier refuses the program unless this load is inside the structure that the pointer has as its type; a
    // pointer that went stale reads as zero, because such loads are fixed up by the kernel.
    unsafe { field.read() }
}
