//! Giving up on a backend that takes too long for its next step: taking more of a request, or beginning the response once it
//! has all of it.
//!
//! When that is moves on with every step, and nearly always nothing ever has to be given up. So a timer that goes off only
//! makes somebody look at the clock again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// A timer that is kept from one thing that is waited for to the next. It is touched only when it has gone off, or is to go
/// off earlier, so what takes no longer than what was before it costs no timer.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready at `deadline`. Before that, whoever is behind `cx` is woken in time to ask again; it must be the same at all
    /// times.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = match &mut self.0 {
            Some(sleep) if !sleep.is_elapsed() && sleep.deadline() <= deadline => {
                return Poll::Pending;
            }
            Some(sleep) => {
                if sleep.deadline() != deadline {
                    sleep.as_mut().reset(deadline);
                }
                sleep
            }
            none => none.insert(Box::pin(sleep_until(deadline))),
        };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(())
    }
}

/// Waits for `response` until `deadline`, which may have moved on by then.
pub(super) async fn until_stalled<F: Future>(
    mut response: Pin<&mut F>,
    deadline: impl Fn() -> Instant,
) -> Option<F::Output> {
    let mut due = deadline();
    loop {
        if let Ok(response) = timeout_at(due, response.as_mut()).await {
            return Some(response);
        }
        let next = deadline();
        if next <= due {
            return None;
        }
        due = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn};
    use std::time::Duration;

    const STEP: Duration = Duration::from_millis(30);

    /// Waits for the `alarm` at `deadline`, and returns how often it was asked.
    async fn wait(alarm: &mut Alarm, deadline: Instant) -> u32 {
        let mut asked = 0;
        poll_fn(|cx| {
            asked += 1;
            alarm.poll(deadline, cx)
        })
        .await;
        assert!(Instant::now() >= deadline);
        asked
    }

    #[tokio::test]
    async fn an_alarm_goes_off_at_its_deadline_wherever_that_was_before() {
        let (mut alarm, now) = (Alarm::default(), Instant::now());
        assert_eq!(wait(&mut alarm, now + STEP).await, 2);
        assert_eq!(wait(&mut alarm, now + 2 * STEP).await, 2);
        // It has been set for later, and then for a time that is over.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(alarm.poll(now + 100 * STEP, &mut cx).is_pending());
        assert!(alarm.poll(now, &mut cx).is_ready());
    }

    #[tokio::test]
    async fn a_deadline_that_moves_on_leaves_the_alarm_where_it_is_until_that_goes_off() {
        let (mut alarm, now) = (Alarm::default(), Instant::now());
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(now + STEP, cx).is_pending())).await);
        assert_eq!(wait(&mut alarm, now + 2 * STEP).await, 3);
    }

    #[tokio::test]
    async fn a_response_is_waited_for_as_long_as_the_deadline_moves_on() {
        let start = Instant::now();
        let deadline = || (Instant::now() + STEP).min(start + 4 * STEP);
        assert_eq!(
            until_stalled(Box::pin(pending::<()>()).as_mut(), deadline).await,
            None
        );
        assert!(start.elapsed() >= 4 * STEP);
        let later = || start + 400 * STEP;
        assert_eq!(
            until_stalled(Box::pin(async { 1 }).as_mut(), later).await,
            Some(1)
        );
    }
}
