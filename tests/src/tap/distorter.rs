//! What becomes of the bytes of one direction of one connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Fault};

/// What to do with bytes, next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    End,
    Cut,
}

/// Carries out the faults of one direction of one connection.
#[derive(Debug)]
pub(super) struct Distorter {
    faults: VecDeque<Fault>,
    offset: usize,
    /// Bytes that wait to change places, and how many belong together.
    swap: Option<(Vec<u8>, usize)>,
    /// Nothing real passes any more.
    silenced: bool,
}

impl Distorter {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.offset);
        Self { faults: faults.into(), offset: 0, swap: None, silenced: false }
    }

    pub(super) fn push(&mut self, mut rest: &[u8], replayed: &dyn Fn(usize) -> Vec<u8>) -> Vec<Step> {
        let mut steps = Vec::new();
        while !rest.is_empty() && !self.silenced {
            if let Some((mut held, half)) = self.swap.take() {
                held.extend(self.take(&mut rest, 2 * half - held.len()));
                if held.len() == 2 * half {
                    held.rotate_left(half);
                    steps.push(Step::Write(held));
                } else {
                    self.swap = Some((held, half));
                }
                continue;
            }
            let Some(next) = self.faults.front() else {
                let all = self.take(&mut rest, usize::MAX);
                steps.push(Step::Write(all));
                continue;
            };
            if next.offset > self.offset {
                let until = next.offset - self.offset;
                let before = self.take(&mut rest, until);
                steps.push(Step::Write(before));
                continue;
            }
            match self.faults.pop_front().unwrap().action {
                Action::FlipBit(bit) => {
                    let mut byte = self.take(&mut rest, 1);
                    byte[0] ^= 1 << (bit % 8);
                    steps.push(Step::Write(byte));
                }
                Action::Drop => {
                    self.silenced = true;
                    steps.push(Step::Cut);
                }
                Action::Truncate => {
                    self.silenced = true;
                    steps.push(Step::End);
                }
                Action::Hold(duration) => steps.push(Step::Pause(duration)),
                Action::Swap(half) => self.swap = Some((Vec::new(), half.max(1))),
                Action::Replay(number) => {
                    self.silenced = true;
                    steps.push(Step::Write(replayed(number).get(self.offset..).unwrap_or_default().to_vec()));
                }
                Action::Insert(bytes) => steps.push(Step::Write(bytes)),
            }
        }
        steps
    }

    /// The sender has ended.
    pub(super) fn end(&mut self) -> Vec<Step> {
        let held = self.swap.take().map(|(held, _)| Step::Write(held));
        if self.silenced { Vec::new() } else { held.into_iter().chain([Step::End]).collect() }
    }

    fn take(&mut self, rest: &mut &[u8], max: usize) -> Vec<u8> {
        let (taken, left) = rest.split_at(max.min(rest.len()));
        *rest = left;
        self.offset += taken.len();
        taken.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::*;

    type Row<'a> = (&'a [(usize, Action)], &'a [u8], Vec<Step>);

    fn delivered(faults: &[(usize, Action)], chunk: usize) -> (Vec<u8>, Vec<Step>) {
        let fault = |(offset, action): &(usize, Action)| Fault {
            connection: None,
            direction: Direction::ToServer,
            offset: *offset,
            action: action.clone(),
        };
        let mut distorter = Distorter::new(faults.iter().map(fault).collect());
        let mut steps = Vec::new();
        for bytes in b"abcdefgh".chunks(chunk) {
            steps.extend(distorter.push(bytes, &|number| format!("REPLAY{number}").into_bytes()));
        }
        steps.extend(distorter.end());
        let mut bytes = Vec::new();
        steps.retain(|step| match step {
            Step::Write(written) => {
                bytes.extend(written);
                false
            }
            _ => true,
        });
        (bytes, steps)
    }

    #[test]
    fn faults_do_what_they_say_however_the_bytes_come() {
        let hold = Duration::from_secs(1);
        let table: [Row<'_>; 9] = [
            (&[], b"abcdefgh", vec![Step::End]),
            (&[(2, Action::FlipBit(0))], b"abbdefgh", vec![Step::End]),
            (&[(0, Action::FlipBit(1)), (7, Action::FlipBit(1))], b"cbcdefgj", vec![Step::End]),
            (&[(3, Action::Drop)], b"abc", vec![Step::Cut]),
            (&[(3, Action::Truncate)], b"abc", vec![Step::End]),
            (&[(3, Action::Hold(hold))], b"abcdefgh", vec![Step::Pause(hold), Step::End]),
            (&[(1, Action::Swap(3))], b"aefgbcdh", vec![Step::End]),
            (&[(2, Action::Replay(4))], b"abPLAY4", vec![]),
            (&[(6, Action::Swap(3)), (4, Action::Insert(b"--".to_vec()))], b"abcd--efgh", vec![Step::End]),
        ];
        for (faults, bytes, steps) in table {
            for chunk in [1, 3, 8] {
                let (delivered, left) = delivered(faults, chunk);
                assert_eq!(
                    String::from_utf8_lossy(&delivered),
                    String::from_utf8_lossy(bytes),
                    "{faults:?} by {chunk}"
                );
                assert_eq!(left, steps, "{faults:?} by {chunk}");
            }
        }
    }
}
