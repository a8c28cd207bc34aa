//! The only code that reads kernel structures. Every offset comes from the running kernel's BTF. Where the verifier knows a
//! pointer's type, it checks every load against that BTF; elsewhere the load is one that fails instead of faulting.

pub(crate) mod binprm;
pub(crate) mod cgroup;
pub(crate) mod file;
pub(crate) mod sock;
pub(crate) mod task;
pub(crate) mod tcp;
pub(crate) mod unix;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// The address of a kernel structure, as a number: what a program may read through, but not follow.
#[derive(Clone, Copy)]
pub(crate) struct Place(u64);

impl Place {
    /// The address that a pointer holds. The verifier forbids arithmetic on pointers of some types (sockets), but not copying
    /// the bytes of one, where the program may see kernel addresses.
    #[inline(always)]
    pub(crate) fn of<T>(pointer: *const T) -> Option<Self> {
        read::<u64>((&raw const pointer).cast::<u8>()).map(Self)
    }

    /// The place with this address.
    #[inline(always)]
    pub(crate) const fn at_address(address: u64) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) const fn address(self) -> u64 {
        self.0
    }

    /// The structure that has this one as a field, so many bytes from its start.
    #[inline(always)]
    pub(crate) const fn around(self, offset: u32) -> Self {
        Self(self.0.wrapping_sub(offset as u64))
    }

    /// Copies as many bytes as are asked for, at most 127, to the beginning of `to`; whether they could be read.
    #[inline(always)]
    pub(crate) fn copy(self, offset: u32, to: &mut [u8; 128], len: u32) -> bool {
        // The mask is for the verifier, which then knows that they fit.
        let len = core::hint::black_box(len) & 127;
        // SAFETY: the destination holds 128 bytes; a bad source makes the helper fail, not fault.
        unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, self.at(offset).cast()) == 0 }
    }

    /// The value of a field.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32) -> Option<T> {
        read(self.at(offset))
    }

    /// The structure that a field points to; `None` also if that is none.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u32) -> Option<Self> {
        self.load::<u64>(offset).filter(|address| *address != 0).map(Self)
    }

    #[inline(always)]
    const fn at(self, offset: u32) -> *const u8 {
        (self.0 + offset as u64) as *const u8
    }
}

#[inline(always)]
fn read<T: Copy>(from: *const u8) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination holds a `T`; a bad source makes the helper fail, not fault.
    let read =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from.cast()) };
    // SAFETY: the helper has written all of it; only integers are read.
    if read == 0 { Some(unsafe { value.assume_init() }) } else { None }
}
