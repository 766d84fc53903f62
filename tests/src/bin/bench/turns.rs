//! The order in which things take their turns that are compared.

/// The order of a round: it begins with another one each time, and every other round goes backwards, so that none always
/// comes first or always behind the same.
pub fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| {
        let place = if round.is_multiple_of(2) {
            place
        } else {
            count - 1 - place
        };
        (round / 2 + place) % count
    })
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn each_has_a_turn_in_a_round_and_each_is_first_in_some() {
        let mut first = [false; 3];
        for round in 0..6 {
            let mut turns: Vec<_> = order(round, 3).collect();
            first[turns[0]] = true;
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2]);
        }
        assert_eq!(first, [true; 3]);
    }
}
