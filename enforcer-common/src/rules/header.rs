//! The first block of an envelope's table.

use super::Block;
use crate::limits::Limits;
use crate::net::Family;

/// Where things stand in an envelope's blocks: its first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// IPv4, IPv6.
    pub trees: [Tree; 2],
    /// The first block of entries.
    pub entries: u32,
    /// Whether a rule allows ICMP anywhere, and so ping sockets may be made.
    pub icmp: bool,
    /// Whether Unix sockets are restricted to those that rules name.
    pub unix: bool,
    /// [`crate::image::ImagePolicy`] as a number.
    pub images: u32,
    /// The name of the list of images: see [`crate::image::ImageKey`].
    pub list: [u32; 4],
    pub limits: Limits,
}

/// The search tree of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The block of its root; the others follow.
    pub root: u32,
    /// How many nodes it has.
    pub nodes: u32,
    /// The entry of its first key; those of the others follow, as many for each node as it has children.
    pub entry: u32,
}

impl Header {
    /// As a block.
    pub fn block(&self) -> Block {
        let mut block = Block::EMPTY;
        let [v4, v6] = self.trees;
        let flags = self.icmp as u32 | (self.unix as u32) << 1 | (self.images & 3) << 2;
        let words = [v4.root, v4.nodes, v4.entry, v6.root, v6.nodes, v6.entry, self.entries, flags];
        block.words[..words.len()].copy_from_slice(&words);
        block.words[Self::LIMITS..Self::LIMITS + Limits::WORDS].copy_from_slice(&self.limits.words());
        Self::name_list(&mut block, self.list);
        block
    }

    /// Gives the list of images of an envelope's first block its name.
    pub fn name_list(block: &mut Block, list: [u32; 4]) {
        block.words[Self::LIST..Self::LIST + list.len()].copy_from_slice(&list);
    }

    /// Where the limits begin.
    pub(super) const LIMITS: usize = 8;
    /// Where the name of the list of images begins.
    const LIST: usize = Self::LIMITS + Limits::WORDS;

    /// Whether an envelope lets ping sockets be made.
    #[inline(always)]
    pub(super) const fn allows_icmp(block: &Block) -> bool {
        block.words[7] & 1 != 0
    }

    /// Whether an envelope restricts Unix sockets.
    #[inline(always)]
    pub(super) const fn restricts_unix(block: &Block) -> bool {
        block.words[7] & 2 != 0
    }

    /// What it says of images, and the name of the list.
    #[inline(always)]
    pub(super) fn images(block: &Block) -> (u32, [u32; 4]) {
        (block.words[7] >> 2 & 3, core::array::from_fn(|at| block.words[Self::LIST + at]))
    }

    /// The tree of a family, and the first block of entries.
    #[inline(always)]
    pub(super) const fn read(block: &Block, family: Family) -> (Tree, u32) {
        let words = &block.words;
        let tree = match family {
            Family::V4 => Tree { root: words[0], nodes: words[1], entry: words[2] },
            Family::V6 => Tree { root: words[3], nodes: words[4], entry: words[5] },
        };
        (tree, words[6])
    }
}
