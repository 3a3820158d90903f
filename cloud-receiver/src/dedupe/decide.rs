//! Decides whether an accepted segment is new, a replay, a conflict or a second branch of its chain.

use tributary_contract::digest::Digest;
use tributary_contract::manifest::Link;

/// What the ledger knows around a segment's number, of segments that may be or are registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// Digest of the segment with the same number.
    pub same: Option<Digest>,
    /// Whether the number is registered by a segment whose digest isn't known: a rebuild found it in a table or receipt.
    pub registered: bool,
    /// The nearest one below.
    pub below: Option<Link>,
    /// The nearest one above.
    pub above: Option<Above>,
}

/// A segment that is known above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Above {
    /// Its number.
    pub number: u64,
    /// What it says came before it.
    pub previous: Option<Link>,
}

/// What a segment is to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not known, and it fits its chain.
    New,
    /// The same segment again: nothing to do.
    Replay,
    /// The number is registered, and this is the first time that its bytes are seen: nothing to do but to remember them.
    Registered,
    /// The same id with other bytes.
    Conflict {
        /// Digest of the one that is known.
        known: Digest,
    },
    /// It, or its successor, names another predecessor than the one that is known.
    Forked {
        /// Which and what.
        detail: String,
    },
}

/// Places a segment with `own` number and digest that names `previous`. A predecessor that hasn't arrived is no fault.
pub fn decide(own: Link, previous: Option<Link>, around: &Neighbours) -> Standing {
    let number = own.number;
    match around.same {
        Some(known) if known == own.digest => return Standing::Replay,
        Some(known) => return Standing::Conflict { known },
        None if around.registered => return Standing::Registered,
        None => {}
    }
    if let Some(below) = around.below {
        let detail = match previous {
            None => format!("{number} says it is the first of its epoch, but {} is known", below.number),
            Some(p) if p.number < below.number => {
                format!("{number} names {} as the one before it, but {} lies between", p.number, below.number)
            }
            Some(p) if p.number == below.number && p.digest != below.digest => {
                format!("{number} names {} with digest {}, known is {}", p.number, p.digest, below.digest)
            }
            Some(_) => String::new(),
        };
        if !detail.is_empty() {
            return Standing::Forked { detail };
        }
    }
    if let Some(above) = &around.above {
        let above_number = above.number;
        let detail = match above.previous {
            None => format!("{above_number} is known as the first of this epoch"),
            Some(p) if p.number < number => {
                format!("{above_number} is known and names {} as the one before it", p.number)
            }
            Some(p) if p.number == number && p.digest != own.digest => {
                format!("{above_number} is known and names {number} with digest {}", p.digest)
            }
            Some(_) => String::new(),
        };
        if !detail.is_empty() {
            return Standing::Forked { detail };
        }
    }
    Standing::New
}

#[cfg(test)]
mod tests {
    use tributary_contract::id::Number;

    use super::*;

    fn link(number: u64, bytes: &str) -> Link {
        Link { number: Number::new(number).unwrap(), digest: Digest::of(bytes.as_bytes()) }
    }

    #[test]
    fn the_same_number_is_a_replay_with_the_same_bytes_and_a_conflict_with_others() {
        let around =
            |bytes: &str| Neighbours { same: Some(Digest::of(bytes.as_bytes())), ..Neighbours::default() };
        assert_eq!(decide(link(3, "a"), None, &around("a")), Standing::Replay);
        let known = Digest::of(b"b");
        assert_eq!(decide(link(3, "a"), None, &around("b")), Standing::Conflict { known });
        let rebuilt = Neighbours { registered: true, ..Neighbours::default() };
        assert_eq!(decide(link(3, "a"), None, &rebuilt), Standing::Registered);
    }

    #[test]
    fn a_segment_forks_if_it_or_its_successor_names_another_predecessor() {
        let forked = |own, previous, below, above: Option<(u64, Option<Link>)>| {
            let above = above.map(|(number, previous)| Above { number, previous });
            let around = Neighbours { below, above, ..Neighbours::default() };
            let standing = decide(own, previous, &around);
            match standing {
                Standing::New => false,
                Standing::Forked { detail } => !detail.is_empty(),
                other => panic!("{other:?}"),
            }
        };
        let own = link(5, "own");
        let (p4, other4, p3) = (link(4, "4"), link(4, "x"), link(3, "3"));
        // Below: nothing known, an older one known, the very one, another one, one in between, first of the epoch.
        assert!(!forked(own, Some(p4), None, None));
        assert!(!forked(own, Some(p4), Some(p3), None));
        assert!(!forked(own, Some(p4), Some(p4), None));
        assert!(forked(own, Some(p4), Some(other4), None));
        assert!(forked(own, Some(p3), Some(p4), None));
        assert!(forked(own, None, Some(p4), None));
        assert!(!forked(own, None, None, None));
        // Above: it names us, it names us with other bytes, it skips us, it is the first, it names one in between.
        assert!(!forked(own, None, None, Some((6, Some(own)))));
        assert!(forked(own, None, None, Some((6, Some(link(5, "else"))))));
        assert!(forked(own, None, None, Some((6, Some(p4)))));
        assert!(forked(own, None, None, Some((6, None))));
        assert!(!forked(own, None, None, Some((7, Some(link(6, "6"))))));
    }
}
