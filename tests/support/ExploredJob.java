package difyexec;

import difyexec.DifyExec.*;

import module java.base;

import static difyexec.DifyExec.Response.RunStatus;

/// A request in a model of Dify that is as simple as the promises of docs/guarantees.md allow. All that a request may
/// become is a [Where], and hidden [#moves] lead from one to the next at any time, within the bounds that the rules
/// assume. The tool sees a job only by its responses and look-ups.
///
/// @param since   when it came to where it is
/// @param began   when its run began
/// @param isHeard its client has got its end
/// @param isGone  Dify has deleted its record
/// @param isQuick its request was answered with 500, 502 or 504, so no busy worker holds it (docs/guarantees.md)
/// @param misreported when a look-up showed it as stopped although it was about to succeed
record ExploredJob(Where where, Instant sent, Instant since, Instant began, boolean isHeard, boolean isGone,
        boolean isQuick, Optional<Instant> misreported) {
    /// A run that was accepted in the API's process begins within this time. So does one that left the queue if no busy
    /// worker holds it; a busy worker begins it when its own run is over.
    private static final Duration START = Duration.ofSeconds(30), RESERVED = Duration.ofMinutes(20);
    private static final Duration KEPT = Duration.ofDays(7), MISREPORTED = Duration.ofSeconds(2);
    private static final Map<String, Response.Ran> RUNS = new ConcurrentHashMap<>(); // to parse their outputs once
    private static final String ERROR = "no such city", PASSING_ERROR = "Rate Limit Error";

    /// `DOOR`: the request waits in front of a full server, which answers look-ups only after it. `STARTING`: the API
    /// runs it in its own process. `LOST`: there is no run and never will be.
    enum Where {
        DOOR, STARTING, QUEUED, RESERVED, RUNNING, PAUSED, SUCCEEDED, FAILED, FAILED_FOR_NOW, STOPPED, LOST;

        /// Returns whether the row was paid for, or may be.
        boolean isPaid() {
            return compareTo(SUCCEEDED) <= 0;
        }

        boolean hasBegun() {
            return compareTo(RUNNING) >= 0 && this != LOST;
        }

        boolean hasEnded() {
            return compareTo(SUCCEEDED) >= 0 && this != LOST;
        }

        boolean isFailed() {
            return this == FAILED || this == FAILED_FOR_NOW;
        }
    }

    static ExploredJob sent(Instant now) {
        return new ExploredJob(Where.DOOR, now, now, now, false, false, false, Optional.empty());
    }

    ExploredJob to(Where where, Instant now) {
        boolean begins = where == Where.RUNNING && this.where != Where.RUNNING;
        return new ExploredJob(where, sent, now, begins ? now : began, isHeard, isGone, isQuick, misreported);
    }

    ExploredJob heard() {
        return new ExploredJob(where, sent, since, began, true, isGone, isQuick, misreported);
    }

    ExploredJob quick() {
        return new ExploredJob(where, sent, since, began, isHeard, isGone, true, misreported);
    }

    ExploredJob misreported(Instant now) {
        return new ExploredJob(where, sent, since, began, isHeard, isGone, isQuick, Optional.of(now));
    }

    private ExploredJob gone() {
        return new ExploredJob(where, sent, since, began, isHeard, true, isQuick, misreported);
    }

    /// Returns all that it may have become by now, without what it cannot be any more.
    Set<ExploredJob> moves(ExploredWorld.Setting setting, Instant now) {
        var all = new LinkedHashSet<>(Set.of(this));
        var left = new ArrayDeque<>(all);
        while (!left.isEmpty()) { // bounded, because a job only moves on
            var one = left.remove();
            for (var next : one.next(setting, now)) if (all.add(next)) left.add(next);
        }
        all.removeIf(one -> one.isOverdue(now));
        return all;
    }

    private List<ExploredJob> next(ExploredWorld.Setting setting, Instant now) {
        var next = new ArrayList<ExploredJob>();
        for (var where : switch (this.where) {
            case DOOR -> List.of(setting.isQueued() ? Where.QUEUED : Where.STARTING, Where.LOST);
            case STARTING, RESERVED -> List.of(Where.RUNNING, Where.LOST);
            case QUEUED -> List.of(Where.RESERVED, Where.LOST);
            case RUNNING -> setting.canPause()
                    ? List.of(Where.SUCCEEDED, Where.FAILED, Where.FAILED_FOR_NOW, Where.STOPPED, Where.PAUSED)
                    : List.of(Where.SUCCEEDED, Where.FAILED, Where.FAILED_FOR_NOW, Where.STOPPED);
            case PAUSED -> List.of(Where.SUCCEEDED, Where.FAILED);
            case SUCCEEDED, FAILED, FAILED_FOR_NOW, STOPPED, LOST -> List.<Where>of();
        }) if (misreported.isEmpty() || where == Where.SUCCEEDED) next.add(to(where, now));
        if (where.hasEnded() && !isGone && now.isAfter(sent.plus(KEPT))) next.add(gone());
        return next;
    }

    private boolean isOverdue(Instant now) {
        return switch (where) {
            case STARTING -> !now.isBefore(since.plus(START));
            case RESERVED -> !now.isBefore(since.plus(isQuick ? START : RESERVED));
            case RUNNING -> misreported.filter(then -> !now.isBefore(then.plus(MISREPORTED))).isPresent();
            default -> false;
        };
    }

    /// Returns all that can matter later, as text.
    String key(Instant now) {
        var key = where + " " + isQuick + isGone + isHeard + misreported.isPresent();
        if (where == Where.LOST) return key;
        key += now.isAfter(sent.plus(KEPT)); // only a step of days leads there
        boolean isBounded = where == Where.STARTING || where == Where.RESERVED;
        return isBounded || where == Where.RUNNING ? key + " " + Math.min(RESERVED.toMillis(),
                Duration.between(isBounded ? since : began, now).toMillis()) : key;
    }

    /// Returns what it must be if nothing happens that need not happen.
    ExploredJob settled(ExploredWorld.Setting setting, Instant now) {
        var one = where == Where.DOOR ? to(setting.isQueued() ? Where.QUEUED : Where.STARTING, now) : this;
        if (!one.isOverdue(now)) return one;
        return one.to(one.where == Where.RUNNING ? Where.SUCCEEDED : Where.RUNNING, now);
    }

    /// Returns what Dify shows of it.
    ///
    /// @param run     its id and task
    /// @param isNamed whether it is looked up by its id
    LookUpResult seen(ExploredWorld.Setting setting, RunRef run, boolean isNamed, Instant now) {
        if (setting.app() == AppKind.COMPLETION) return new LookUpResult.Unlisted();
        if (isGone || !where.hasBegun()) return new LookUpResult.Absent();
        if (!setting.app().hasRuns()) return message(setting);
        boolean isChatflow = setting.app() == AppKind.CHATFLOW, isDropped = setting.isStream() && !isHeard;
        if (!isNamed && !isChatflow && setting.isOld() && (!where.hasEnded() || isDropped))
            return new LookUpResult.Absent();
        boolean isSilent = where == Where.RUNNING || where == Where.STOPPED || setting.isOld() && isDropped;
        if (!isNamed && isChatflow && isSilent)
            return new LookUpResult.Unanswered(where == Where.STOPPED && !setting.isOld());
        return switch (where) {
            case RUNNING, PAUSED -> new LookUpResult.Running(new RunRef(run.id(), ""),
                    where == Where.RUNNING ? RunStatus.RUNNING : RunStatus.PAUSED,
                    Optional.of(Duration.between(began, now)), Duration.ZERO);
            case SUCCEEDED, FAILED, FAILED_FOR_NOW, STOPPED -> ended(end(run, isChatflow && !isNamed));
            case DOOR, STARTING, QUEUED, RESERVED, LOST -> throw new IllegalStateException("unseen");
        };
    }

    /// Returns the end of its run.
    ///
    /// @param isAnswer a chatflow's message has an answer or an error, and no run
    Response.Ran end(RunRef run, boolean isAnswer) {
        var ran = switch (where) {
            case SUCCEEDED -> ran(run.id(), RunStatus.SUCCEEDED, "");
            case FAILED -> ran(run.id(), RunStatus.FAILED, ERROR);
            case FAILED_FOR_NOW -> ran(run.id(), RunStatus.FAILED, PASSING_ERROR);
            default -> ran(run.id(), RunStatus.STOPPED, "Aborted: User requested stop");
        };
        if (!isAnswer) return ran;
        return ran.status().isSuccess() ? Response.Ran.answered(ran.outputs(), 1, Response.ChatMessage.NONE)
                : Response.Ran.failed(ran.error());
    }

    /// Returns what Dify shows of a row without a workflow. If the client of its stream has left, Dify stores no answer,
    /// and of an old agent only a thought.
    private LookUpResult message(ExploredWorld.Setting setting) {
        boolean isDropped = setting.isStream() && !isHeard;
        boolean isThought = setting.app() == AppKind.AGENT_CHAT && where == Where.SUCCEEDED;
        if (where == Where.RUNNING || isDropped && !isThought) return new LookUpResult.Unanswered(false);
        return ended(spoken(setting));
    }

    /// Returns the end of a row without a workflow. Dify 1.9 stores no tokens, which would show that it was stopped.
    Response.Ran spoken(ExploredWorld.Setting setting) {
        if (where == Where.FAILED) return Response.Ran.failed(ERROR);
        if (where == Where.FAILED_FOR_NOW) return Response.Ran.failed(PASSING_ERROR);
        boolean isCounted = where == Where.SUCCEEDED && !setting.isOld();
        var said = Response.Ran.answered(Given.outputs("{\"answer\":\"yes\"}"), 1,
                new Response.ChatMessage("c", "m", Cost.of(isCounted ? 20 : 0)));
        return where == Where.STOPPED && !setting.isOld() ? said.stopped() : said;
    }

    static LookUpResult ended(Response.Ran ran) {
        return new LookUpResult.Ended(ran, Map.of("id", "a"), Optional.empty());
    }

    static Response.Ran ran(String id, RunStatus status, String error) {
        return RUNS.computeIfAbsent(id + status + error, _ -> Given.ran(id, status, error));
    }
}
