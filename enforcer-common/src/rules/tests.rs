use super::*;

#[test]
fn selectors_order_by_protocol_and_then_by_port() {
    assert!(selector(Protocol::Icmp, 0) < selector(Protocol::Tcp, 0));
    assert!(selector(Protocol::Tcp, u16::MAX) < selector(Protocol::Udp, 0));
    assert!(selector(Protocol::Udp, u16::MAX) < INBOUND);
}

#[test]
fn comparisons_are_those_of_numbers() {
    let numbers = [0, 1, 2, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
    for a in numbers {
        for b in numbers {
            assert_eq!((less(a, b), equal(a, b)), (u64::from(a < b), u64::from(a == b)), "{a} {b}");
        }
    }
}

#[test]
fn keys_are_counted() {
    let mut v4 = Block::EMPTY;
    for (word, n) in v4.words.iter_mut().zip(1..) {
        *word = 10 * n;
    }
    // They differ in each of the words.
    let v6_keys: [u128; 8] =
        [5, 1 << 40, 1 << 64, (1 << 64) + 1, 3 << 64, 1 << 96, (1 << 96) + (1 << 70), u128::MAX - 1];
    let mut v6 = Block::EMPTY;
    for (words, key) in v6.words.as_chunks_mut::<4>().0.iter_mut().zip(v6_keys) {
        *words = [96, 64, 32, 0].map(|shift| (key >> shift) as u32);
    }
    // The last of a block is no key.
    for at in [0u32, 9, 10, 11, 155, 160, 161, 309, 310, u32::MAX] {
        let expect = (1..=31).filter(|n| n * 10 <= at).count() as u32;
        let place = Place { high: 0, low: at.into() };
        assert_eq!(v4.keys_up_to(Family::V4, place), expect, "{at}");
    }
    for key in v6_keys {
        for at in [key.wrapping_sub(1), key, key + 1] {
            let expect = v6_keys[..7].iter().filter(|key| **key <= at).count() as u32;
            let place = Place { high: (at >> 64) as u64, low: at as u64 };
            assert_eq!(v6.keys_up_to(Family::V6, place), expect, "{at:x}");
        }
    }
}
