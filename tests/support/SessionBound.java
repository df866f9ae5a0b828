package difyexec;

import module java.base;

/// The longest time that a session may take, as it follows from its settings. The formula is only here: the matrix and
/// the seeds use it. A session that takes longer counts as one that never ends.
///
/// @param settle  how long a run is looked for before its attempt counts as not started
/// @param delay   the longest wait before a retry
/// @param retries `MAX_RETRIES`
/// @param slots   `-c`
record SessionBound(Duration timeout, Duration settle, Duration delay, int retries, int slots, Requests requests) {
    /// The pause between two look-ups of a run grows up to this time.
    private static final Duration LONGEST_PAUSE = Duration.ofSeconds(15);
    /// A run that was stopped because its time is over gets this time to end.
    private static final Duration STOPPING = Duration.ofSeconds(30);
    /// A look-up stops a run that is overdue, asks for the list, for the messages of a conversation, and for the run.
    private static final int REQUESTS_PER_LOOK = 4;

    /// How long a server can let the tool wait.
    ///
    /// @param query      for the response to a request that starts no run
    /// @param firstEvent for the first event of a stream
    /// @param silence    until the session ends because no response comes to anything
    record Requests(Duration query, Duration firstEvent, Duration silence) {
        /// The tool's own limits, which no setting changes.
        static final Requests SLOWEST = new Requests(Duration.ofSeconds(30), Duration.ofSeconds(300),
                Duration.ofMinutes(5));

        /// Every response comes within this time, whatever it contains, or its connection breaks.
        static Requests within(Duration time) {
            return new Requests(time, time, Duration.ZERO);
        }

        /// Nothing answers the requests by which the tool finds out whether the server is back.
        Requests withoutProbes() {
            return new Requests(query, firstEvent, SLOWEST.silence());
        }
    }

    /// Returns the longest time for this many rows.
    Duration of(int rows) {
        return start().plus(perRow(rows).multipliedBy(rounds(rows))).plus(requests.silence()).plus(late(rows));
    }

    /// Info and form are requested one after the other.
    private Duration start() {
        return requests.query().plus(delay).multipliedBy(2L * (1 + retries));
    }

    /// Rows that were cut off hold at most half of the slots.
    private long rounds(int rows) {
        return Math.ceilDiv(rows, Math.max(1, slots / 2));
    }

    /// All attempts of a row. Each is looked up when it was cut, and once more before its row is sent again. The last
    /// one may be stopped, which ends its row.
    private Duration perRow(int rows) {
        var attempt = requests.firstEvent().plus(timeout).plus(lookedUp(rows).multipliedBy(2)).plus(delay);
        return attempt.multipliedBy(1 + retries).plus(STOPPING);
    }

    /// From a cut to an outcome: the look-ups of an attempt end with its time, but the last one may begin just before,
    /// and one more follows if the run is stopped then.
    private Duration lookedUp(int rows) {
        var time = Collections.max(List.of(timeout, settle));
        return time.plus(Collections.min(List.of(time, LONGEST_PAUSE))).plus(look(rows).multipliedBy(2));
    }

    /// One look-up, behind those of all other rows.
    private Duration look(int rows) {
        return requests.query().multipliedBy(REQUESTS_PER_LOOK).multipliedBy(Math.ceilDiv(rows, looksAtOnce()));
    }

    private int looksAtOnce() {
        return Math.max(2, slots / 4);
    }

    /// Runs that counted as not started are looked for when all rows are done.
    private Duration late(int rows) {
        return look(rows).multipliedBy(1 + retries);
    }

    /// Returns the longest time of a command that sends at most this many requests, each of them again after a failure,
    /// and starts no runs.
    Duration ofRequests(int most) {
        return start().plus(requests.query().plus(delay).multipliedBy((long) most * (1 + retries)));
    }
}
