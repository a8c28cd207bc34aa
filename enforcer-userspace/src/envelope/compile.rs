//! From flattened rules to an envelope's blocks; `enforcer_common::rules` says what they are.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use enforcer_common::image::ImagePolicy;
use enforcer_common::limits::Limits;
use enforcer_common::net::{Address, Family, Protocol};
use enforcer_common::rules::{Block, Header, NO_RULE, RuleEntry, Tree, fan_out};
use enforcer_common::verdict::Verdict;

use super::flatten::{Flat, RuleSet, TooLarge, flatten};
use super::spans::Span;
use super::{Envelope, Exec, OnMismatch, Prefix, Rule};

/// The table of one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledRules {
    pub(crate) blocks: Vec<Block>,
    /// The Unix sockets that rules name, each with the number of the rule among those for Unix sockets. The first to name one has it.
    pub(crate) unix: Vec<(String, u32)>,
    /// The rules that decide somewhere.
    pub(crate) deciding: HashSet<u32>,
    pub(crate) stats: Stats,
}

/// What the blocks are there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Intervals of addresses within which the same holds.
    pub(crate) intervals: usize,
    /// Ranges of ports, of intervals that have several.
    pub(crate) ranges: usize,
    /// The most nodes on the way to an address.
    pub(crate) levels: usize,
    /// The most look-ups to find the range of a port.
    pub(crate) range_lookups: usize,
}

impl Stats {
    /// The most look-ups that a decision takes: the header, the nodes, the entry, and the ranges of ports.
    pub(crate) fn lookups(&self) -> usize {
        2 + self.levels + self.range_lookups
    }
}

impl CompiledRules {
    /// Gives the list of images its name, which no other list may have.
    pub(crate) fn name_list(&mut self, list: [u32; 4]) {
        if let Some(header) = self.blocks.first_mut() {
            Header::name_list(header, list);
        }
    }

    /// The kernel memory that the table takes, in bytes: its blocks, in whole pages, and a page of the array's own
    /// (v6.12/kernel/bpf/arraymap.c, array_map_alloc).
    pub(crate) fn kernel_bytes(&self) -> u64 {
        const PAGE: u64 = 4096;
        (self.blocks.len() as u64 * size_of::<Block>() as u64).next_multiple_of(PAGE) + PAGE
    }
}

/// Compiles in at most `max_steps` steps of combining port ranges, to at most `max_blocks`.
pub(crate) fn compile_within(
    envelope: &Envelope,
    max_steps: u64,
    max_blocks: usize,
) -> Result<CompiledRules, TooLarge> {
    let check_size = |blocks| if blocks > max_blocks { Err(TooLarge::Blocks { max_blocks }) } else { Ok(()) };
    // Where `decide_bind` asks whether anybody at all may reach a port. Both, whatever a rule's families are: a socket that is
    // bound to `::` is reached over IPv4 as well.
    let anybody = [Address::UNSPECIFIED_V4, Address::UNSPECIFIED_V6].map(Prefix::single);
    let set =
        RuleSet { mode: envelope.mode, rules: &envelope.rules, listen: &envelope.listen, anybody: &anybody };
    let flat = flatten(set, max_steps)?;
    let mut contents = Contents::default();
    let mut intervals = [Vec::new(), Vec::new()];
    for (intervals, family) in intervals.iter_mut().zip(Family::ALL) {
        *intervals = cut(flat.iter().filter(|flat| flat.prefix.address().family() == *family), &mut contents);
    }
    let mut ranges = Ranges::new(envelope, contents);
    let mut header = header(envelope);
    let mut blocks = vec![Block::EMPTY];
    let mut entries: Vec<RuleEntry> = Vec::new();
    let mut levels = 0;
    for ((intervals, family), tree) in intervals.iter().zip(Family::ALL).zip(&mut header.trees) {
        let mut filled = Vec::with_capacity(intervals.len());
        for (first, content) in intervals {
            filled.push((*first, ranges.entry_for(*content)));
            check_size(blocks.len() + ranges.entries.len() / Block::ENTRIES)?;
        }
        check_size(blocks.len() + filled.len() / fan_out(*family) as usize)?;
        let written = write_tree(&filled, *family, &mut blocks, &mut entries);
        levels = levels.max(depth(written.nodes, *family));
        *tree = written;
    }
    let first_range = number(entries.len());
    let stats = Stats {
        intervals: intervals.iter().map(Vec::len).sum(),
        ranges: ranges.entries.len(),
        levels,
        range_lookups: ranges.lookups,
    };
    entries.append(&mut ranges.entries);
    // An interval's ranges were counted from the first of them.
    for entry in entries.iter_mut().filter(|entry| entry.many) {
        entry.first += first_range;
        entry.last += first_range;
    }
    check_size(blocks.len() + entries.len().div_ceil(Block::ENTRIES))?;
    header.entries = number(blocks.len());
    blocks.extend(entries.chunks(Block::ENTRIES).map(block_of));
    blocks[0] = header.block();
    let deciding = entries.iter().map(|entry| entry.rule).filter(|rule| *rule != NO_RULE).collect();
    Ok(CompiledRules { blocks, unix: unix_sockets(envelope), deciding, stats })
}

fn unix_sockets(envelope: &Envelope) -> Vec<(String, u32)> {
    let rules = envelope.unix.iter().flatten().zip(0..);
    let mut named = HashSet::new();
    let sockets = rules.flat_map(|(rule, number)| rule.to.iter().map(move |socket| (socket, number)));
    let first = sockets.filter(|(socket, _)| named.insert(*socket));
    first.map(|(socket, number)| (socket.clone(), number)).collect()
}

/// The header, but for where things stand.
fn header(envelope: &Envelope) -> Header {
    let pings = |rule: &Rule| {
        rule.verdict == Verdict::Allow && rule.protocols.contains(&Protocol::Icmp) && !rule.to.is_empty()
    };
    Header {
        icmp: envelope.rules.iter().any(pings),
        unix: envelope.unix.is_some(),
        images: image_policy(&envelope.exec).raw(),
        limits: limits(&envelope.limits),
        ..Header::default()
    }
}

fn image_policy(exec: &Exec) -> ImagePolicy {
    match (exec.restricts_images(), exec.on_mismatch) {
        (false, _) => ImagePolicy::Any,
        (true, OnMismatch::Audit) => ImagePolicy::Audit,
        (true, OnMismatch::DenyEgress) => ImagePolicy::DenyEgress,
        (true, OnMismatch::Kill) => ImagePolicy::Kill,
    }
}

/// As the kernel counts. How many processes there may be, the host's pids controller says.
fn limits(written: &super::Limits) -> Limits {
    const SECOND_NS: u64 = 1_000_000_000;
    let super::Limits { connections, connection_rate, bytes_out, bytes_in, .. } = *written;
    // Rounded up, so that it is never faster than written; and as many at once as written, for all that.
    let rate = connection_rate.map(|rate| {
        let interval_ns = rate.seconds.saturating_mul(SECOND_NS).div_ceil(rate.count.max(1));
        (interval_ns, interval_ns.saturating_mul(rate.count))
    });
    let (rate_interval_ns, rate_burst_ns) = rate.unwrap_or((0, 0));
    Limits {
        connections: connections.unwrap_or(Limits::NONE),
        rate_interval_ns,
        rate_burst_ns,
        bytes_out: bytes_out.unwrap_or(Limits::NONE),
        bytes_in: bytes_in.unwrap_or(Limits::NONE),
    }
}

/// What holds somewhere, as a number: the same number exactly if the same holds.
type Content = usize;

/// That nothing holds.
const NOTHING: Content = 0;

/// Everything that holds somewhere.
struct Contents {
    all: Vec<Rc<[Span]>>,
    numbers: HashMap<Rc<[Span]>, Content>,
    /// Lists that were looked at before, by where they stand: all prefixes of one table share one.
    seen: HashMap<*const Span, Content>,
}

impl Default for Contents {
    fn default() -> Self {
        let nothing: Rc<[Span]> = Rc::new([]);
        let numbers = HashMap::from([(Rc::clone(&nothing), NOTHING)]);
        Self { all: vec![nothing], numbers, seen: HashMap::new() }
    }
}

impl Contents {
    /// The number of these spans, which live as long as the envelope is compiled.
    fn number(&mut self, spans: &Rc<[Span]>) -> Content {
        *self.seen.entry(Rc::as_ptr(spans).cast()).or_insert_with(|| {
            *self.numbers.entry(Rc::clone(spans)).or_insert_with(|| {
                self.all.push(Rc::clone(spans));
                self.all.len() - 1
            })
        })
    }
}

/// From this address, as a number, to where the next interval begins.
type Interval<T> = (u128, T);

/// Cuts the addresses of a family into intervals. The prefixes are in order, each before those inside it.
fn cut<'f>(flat: impl Iterator<Item = &'f Flat>, contents: &mut Contents) -> Vec<Interval<Content>> {
    let mut intervals = Intervals(Vec::new());
    // The prefixes around the current one: the first address behind each, if there is one, and what holds in it.
    let mut around: Vec<(Option<u128>, Content)> = Vec::new();
    for Flat { prefix, spans } in flat {
        let family_bits = prefix.address().family().bits();
        let first = u128::from_be_bytes(prefix.address().octets()) >> (128 - u32::from(family_bits));
        let size = 1u128.checked_shl((family_bits - prefix.bits()).into());
        let end =
            size.and_then(|size| first.checked_add(size)).filter(|end| family_bits == 128 || end >> 32 == 0);
        while let Some((Some(ended), _)) = around.pop_if(|(end, _)| end.is_some_and(|end| end <= first)) {
            intervals.begin(ended, innermost(&around));
        }
        let content = contents.number(spans);
        intervals.begin(first, content);
        around.push((end, content));
    }
    while let Some((ended, _)) = around.pop() {
        if let Some(ended) = ended {
            intervals.begin(ended, innermost(&around));
        }
    }
    intervals.0
}

/// What holds in the innermost of the prefixes around.
fn innermost(around: &[(Option<u128>, Content)]) -> Content {
    around.last().map_or(NOTHING, |(_, content)| *content)
}

struct Intervals(Vec<Interval<Content>>);

impl Intervals {
    /// From `first` on this holds. Not before the interval that began last.
    fn begin(&mut self, first: u128, content: Content) {
        let _replaced = self.0.pop_if(|(last, _)| *last == first);
        let before = self.0.last().map_or(NOTHING, |(_, content)| *content);
        if before != content {
            self.0.push((first, content));
        }
    }
}

/// The entries of intervals, and the ranges of ports of those that have several.
struct Ranges<'e> {
    envelope: &'e Envelope,
    contents: Vec<Rc<[Span]>>,
    /// By content, once it is asked for.
    known: Vec<Option<RuleEntry>>,
    entries: Vec<RuleEntry>,
    lookups: usize,
}

impl<'e> Ranges<'e> {
    fn new(envelope: &'e Envelope, contents: Contents) -> Self {
        let known = vec![None; contents.all.len()];
        Self { envelope, contents: contents.all, known, entries: Vec::new(), lookups: 0 }
    }

    fn entry_for(&mut self, content: Content) -> RuleEntry {
        if let Some(known) = self.known[content] {
            return known;
        }
        let entry = match &*self.contents[content] {
            [] => RuleEntry::NONE,
            [only] => range(self.envelope, only),
            several => {
                let first = number(self.entries.len());
                self.entries.extend(several.iter().map(|span| range(self.envelope, span)));
                // Half of what is left, and half of that, to the last one, which is then read.
                self.lookups = self.lookups.max((several.len() - 1).ilog2() as usize + 2);
                RuleEntry { first, last: number(self.entries.len()) - 1, many: true, ..RuleEntry::NONE }
            }
        };
        self.known[content] = Some(entry);
        entry
    }
}

fn range(envelope: &Envelope, span: &Span) -> RuleEntry {
    let verdict = envelope.verdict(span.rule).raw();
    let mode = span.mode.map_or(0, |mode| mode.raw());
    RuleEntry { first: span.first, last: span.last, rule: span.rule, verdict, mode, many: false }
}

/// Writes a family's search tree behind the blocks and the entries that are there.
fn write_tree(
    intervals: &[Interval<RuleEntry>],
    family: Family,
    blocks: &mut Vec<Block>,
    entries: &mut Vec<RuleEntry>,
) -> Tree {
    let fan_out = fan_out(family) as usize;
    let keys = fan_out - 1;
    let nodes = intervals.len().div_ceil(keys);
    let tree = Tree { root: number(blocks.len()), nodes: number(nodes), entry: number(entries.len()) };
    // Places behind the last interval hold what that holds: a key that is never too large for an address.
    let rest = (u128::MAX, intervals.last().map_or(RuleEntry::NONE, |(_, entry)| *entry));
    let mut in_order = intervals.iter().copied().chain(std::iter::repeat(rest));
    blocks.resize(blocks.len() + nodes, Block::EMPTY);
    let first_entry = entries.len();
    entries.resize(first_entry + nodes * fan_out, RuleEntry::NONE);
    // From left to right: the nodes on the way down, each with its next key.
    let mut way: Vec<(usize, usize)> = vec![(0, 0)];
    while let Some((node, key)) = way.pop() {
        if node >= nodes {
            continue;
        }
        if key > 0 {
            let (first, entry) = in_order.next().unwrap_or(rest);
            let words = Block::WORDS / fan_out;
            let block = &mut blocks[tree.root as usize + node];
            for (n, word) in block.words[(key - 1) * words..key * words].iter_mut().rev().enumerate() {
                *word = (first >> (32 * n)) as u32;
            }
            block.words[Block::nothing(family)] |= u32::from(entry == RuleEntry::NONE) << (key - 1);
            entries[first_entry + node * fan_out + key - 1] = entry;
        }
        if key < keys {
            way.push((node, key + 1));
        }
        way.push((node * fan_out + 1 + key, 0));
    }
    tree
}

/// How many levels a tree of so many nodes has.
fn depth(nodes: u32, family: Family) -> usize {
    let fan_out = u64::from(fan_out(family));
    let (mut levels, mut reached, mut width) = (0, 0, 1);
    while reached < u64::from(nodes) {
        reached += width;
        width *= fan_out;
        levels += 1;
    }
    levels
}

fn block_of(entries: &[RuleEntry]) -> Block {
    let mut block = Block::EMPTY;
    for (words, entry) in block.words.chunks_mut(RuleEntry::WORDS).zip(entries) {
        words.copy_from_slice(&entry.words());
    }
    block
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("there are fewer than 2^32 of what an envelope's text and steps can make")
}

#[cfg(test)]
mod tests;
