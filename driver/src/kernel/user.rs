//! The administrator's own table `inet tombolo-user`: made where it is missing, and from then on not
//! ours, but that its hook is added where somebody has made it without.

/// What makes the table.
pub(super) const TEXT: &str = include_str!("user.nft");

/// Its name; its family is `inet`.
pub(super) const TABLE: &str = "tombolo-user";

/// The chain in it that hangs on a hook and leads to the administrator's.
pub(super) const BASE: &str = "forward";

/// What became of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Absent,
    /// Somebody has made it, from a file of his own that holds chain `published` alone: nothing leads there.
    Unasked,
    /// As it was made.
    Untouched,
    /// Somebody has put something in, or taken something out.
    Theirs,
}
