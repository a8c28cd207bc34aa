//! `task_struct` and `signal_struct`.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel_str},
};
use enforcer_common::record::COMM_LEN;

use super::{Place, cgroup::Cgroup};
use crate::config::loaded;

/// A pointer to a `task_struct` that the verifier knows as such: the current task, or a hook's argument.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const c_void);

impl Task {
    /// The task that runs this program.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: a helper without arguments; the current task outlives the program.
        Self(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
    }

    /// # Safety
    ///
    /// `pointer` must be a `task_struct *` argument of the running hook, not null.
    #[inline(always)]
    pub(crate) const unsafe fn from_argument(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    /// The thread's id.
    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.load(loaded!(offsets.task_pid))
    }

    /// The process's id.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.load(loaded!(offsets.task_tgid))
    }

    /// When the process's leader started, ns on the boot clock. An exec from another thread hands it on, so it is
    /// constant for the process's life (v6.1/fs/exec.c, de_thread).
    #[inline(always)]
    pub(crate) fn leader_start_ns(self) -> u64 {
        Self(self.load(loaded!(offsets.task_group_leader))).load(loaded!(offsets.task_start_boottime))
    }

    /// Threads of the process that have not begun to exit.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> u32 {
        Self(self.load(loaded!(offsets.task_signal))).load(loaded!(offsets.signal_live))
    }

    /// The status that `wait` will give.
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        self.load(loaded!(offsets.task_exit_code))
    }

    /// The thread's name, which it can set itself: a hint for people, never an identity. `None` if it cannot be read.
    #[inline(always)]
    pub(crate) fn comm(self) -> Option<[u8; COMM_LEN]> {
        let mut comm = [0; COMM_LEN];
        let from = self.0.cast::<u8>().wrapping_add(loaded!(offsets.task_comm) as usize);
        // SAFETY: the destination holds COMM_LEN bytes; a bad source makes the helper fail, not fault.
        let read =
            unsafe { bpf_probe_read_kernel_str(comm.as_mut_ptr().cast(), COMM_LEN as u32, from.cast()) };
        (read >= 0).then_some(comm)
    }

    /// The process that made it, or that has taken the place of that.
    #[inline(always)]
    pub(crate) fn parent(self) -> Self {
        Self(self.load(loaded!(offsets.task_real_parent)))
    }

    /// The user, as seen from the initial user namespace.
    #[inline(always)]
    pub(crate) fn uid(self) -> u32 {
        Self(self.load(loaded!(offsets.task_cred))).load(loaded!(offsets.cred_uid))
    }

    /// Whether it is in the initial user namespace, where its privileges are those over the host.
    #[inline(always)]
    pub(crate) fn is_in_host_user_namespace(self) -> bool {
        let credentials = Self(self.load(loaded!(offsets.task_cred)));
        Self(credentials.load(loaded!(guard.cred_user_ns))).load::<u32>(loaded!(guard.user_namespace_level))
            == 0
    }

    /// The inode of its network namespace; `None` if it cannot be read (a task that exits has none).
    #[inline(always)]
    pub(crate) fn netns(self) -> Option<u32> {
        let namespaces: *const c_void = self.load(loaded!(offsets.task_nsproxy));
        let net = Place::of(namespaces)?.follow(loaded!(offsets.nsproxy_net_ns))?;
        net.load(loaded!(offsets.net_inum))
    }

    /// Its cgroup.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Option<Cgroup> {
        let set: *const c_void = self.load(loaded!(offsets.task_cgroups));
        Place::of(set)?.follow(loaded!(offsets.css_set_dfl_cgrp)).map(Cgroup::at)
    }

    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        let field = self.0.cast::<u8>().wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the verifier refuses the program unless this load is inside the structure that the pointer has as its
        // type; a pointer that went stale reads as zero, because such loads are fixed up by the kernel.
        unsafe { field.read() }
    }
}
