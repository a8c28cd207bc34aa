//! What both sides of the kernel boundary speak: the layout of records and map entries, and [`decision::decide`], the one
//! function that turns facts into a verdict. The kernel programs, the daemon, the tests and `enforcer check` all run
//! this code.
//!
//! Everything here is pure: no I/O, no clock, no allocation, no dependency (but `aya::Pod`, behind the `user` feature).
//!
//! # Changing a type
//!
//! Every `repr(C)` type in this crate is an agreement between a daemon and kernel programs that may have been loaded
//! by an earlier build. Any change to one (a field, its order, its meaning, the number behind a name) bumps
//! [`ABI_VERSION`]; a daemon refuses to adopt programs of another version. `tests/layout.rs` shows the layout under
//! review. Numbers are appended and never reused.

#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod config;
pub mod counter;
pub mod decision;
pub mod flow;
pub mod guard;
pub mod identity;
pub mod image;
pub mod limits;
pub mod net;
pub mod packet;
pub mod record;
pub mod rules;
pub mod session;
pub mod verdict;

/// The version of everything that crosses between the kernel programs and user space.
pub const ABI_VERSION: u16 = 8;

/// A raw number that stands for nothing we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRaw {
    /// What the number was to be.
    pub what: &'static str,
    /// The number.
    pub raw: u32,
}

impl core::fmt::Display for UnknownRaw {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "unknown {} {}", self.what, self.raw)
    }
}

impl core::error::Error for UnknownRaw {}

/// Declares an enumeration with stable numbers and stable public names.
///
/// The number is what crosses the kernel boundary, the name is what records, metrics and messages print.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $repr:ty = $what:literal {
            $( $(#[$variant_meta:meta])* $variant:ident = $number:literal => $text:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant = $number, )+
        }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number that crosses the kernel boundary.
            pub const fn raw(self) -> $repr {
                self as $repr
            }

            /// The stable public name.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )+
                }
            }
        }

        impl TryFrom<$repr> for $name {
            type Error = $crate::UnknownRaw;

            fn try_from(raw: $repr) -> Result<Self, $crate::UnknownRaw> {
                match raw {
                    $( $number => Ok(Self::$variant), )+
                    _ => Err($crate::UnknownRaw { what: $what, raw: raw as u32 }),
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use wire_enum;

/// Marks types that may be copied to and from the kernel byte for byte, and fixes their size.
macro_rules! kernel_pod {
    ($($ty:ty: $size:literal),+ $(,)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$ty>() == $size);

            // SAFETY: `repr(C)`, integers and byte arrays only, padding is a named field; the size is asserted above.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )+
    };
}
pub(crate) use kernel_pod;
