package difyexec;

import difyexec.DifyExec.*;
import difyexec.DifyExec.Event.*;
import difyexec.ExploredJob.Where;

import module java.base;

import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.NOON;
import static difyexec.Given.seconds;

/// A row, its attempts, what the tool knows of them, and the server: one state of the exploration. [#steps] returns
/// each event that may come next, with the state after it. The decisions are those of [Judge], [LookUpRules] and
/// [History]. What the engine does with them is repeated here in a few lines, without threads and files.
final class ExploredWorld {
    /// A kind of app, a release of Dify and a mode.
    ///
    /// @param version the release; see [Release]
    record Setting(AppKind app, String version, Mode mode) {
        static List<Setting> all() {
            var all = new ArrayList<Setting>();
            for (var app : AppKind.values()) for (var version : List.of("1.16.1", "1.9.2"))
                for (var mode : List.of(Mode.BLOCKING, Mode.STREAMING)) all.add(new Setting(app, version, mode));
            all.removeIf(one -> one.isAgent() && !one.isStream()); // agents only stream
            all.removeIf(one -> one.app == AppKind.AGENT && one.isOld()); // there was none
            return all;
        }

        private boolean isAgent() {
            return app == AppKind.AGENT || app == AppKind.AGENT_CHAT;
        }

        boolean isOld() {
            return version.equals("1.9.2");
        }

        boolean isStream() {
            return mode == Mode.STREAMING;
        }

        /// Returns whether a worker runs the request, which the server queues for it.
        boolean isQueued() {
            return app.hasRuns() && isStream() && !isOld();
        }

        boolean canPause() {
            return app.hasRuns() && !isOld();
        }

        @Override
        public String toString() {
            return app.name().toLowerCase(Locale.ROOT) + " " + version + " " + mode;
        }
    }

    /// The tool's rules, and wrong ones that the exploration must find.
    enum Rules {
        OURS,
        /// A stream counts as not started 30 s after a later one has begun, although another worker may hold it.
        SHORT_SETTLE {
            @Override
            Limits limits() {
                return limits(seconds(30));
            }
        },
        /// The time for which a run is looked for counts from the request, not from the first look-up that is answered.
        SETTLE_FROM_REQUEST {
            @Override
            LookUp begun(LookUp lookUp) {
                lookUp.note(Given.ABSENT, lookUp.attempt.at(), TIMEOUT);
                return lookUp;
            }
        },
        /// A run that is absent after a week never started.
        WEEK_OLD_IS_NOT_STARTED((right, lookUp, found, now) -> {
            boolean isWeekOld = lookUp.attempt.at().plus(Duration.ofDays(7)).isBefore(now);
            return isWeekOld && found instanceof LookUpResult.Absent && right.getFirst() instanceof Outcome
                    ? List.of(new Verdict.Close("not_started", ""), again()) : right;
        }),
        /// A look-up without an answer shows that there is no run.
        SILENCE_IS_ABSENCE((right, _, found, _) ->
                found instanceof LookUpResult.Inconclusive ? List.of(again()) : right),
        /// A look-up that fails is repeated forever.
        SILENCE_IS_WAITED_FOR((right, lookUp, found, _) -> found instanceof LookUpResult.Inconclusive
                ? List.of(new Verdict.LookAgain(lookUp, lookUp.stage())) : right),
        /// Nothing is decided about a run that was stopped.
        STOPPED_IS_FORGOTTEN((right, lookUp, _, _) ->
                lookUp.stage() == LookUp.Stage.ENDED ? List.of() : right),
        /// A completion never started, because nothing shows it.
        UNLISTED_IS_NOT_STARTED((right, _, found, _) ->
                found instanceof LookUpResult.Unlisted ? List.of(again()) : right),
        /// A message that is still empty belongs to a row that has failed.
        EMPTY_IS_FAILED((right, _, found, _) ->
                found instanceof LookUpResult.Unanswered ? List.of(Outcome.failed("empty")) : right);

        /// Returns the verdicts of a wrong rule, or the right ones where it does not apply.
        @FunctionalInterface
        private interface WrongRule {
            List<Verdict> verdicts(List<Verdict> right, LookUp lookUp, LookUpResult found, Instant now);
        }

        private final LookUpRules rules = new LookUpRules(JUDGE, limits(), false, false);
        private final WrongRule wrong;

        Rules() {
            this((right, _, _, _) -> right);
        }

        Rules(WrongRule wrong) {
            this.wrong = wrong;
        }

        Limits limits() {
            return limits(null);
        }

        static Limits limits(Duration settle) {
            return new Limits(null, null, null, Duration.ZERO, TIMEOUT, settle);
        }

        LookUp begun(LookUp lookUp) {
            return lookUp;
        }

        /// Returns whether it is to be found in this setting.
        boolean concerns(Setting setting) {
            return switch (this) {
                case UNLISTED_IS_NOT_STARTED -> setting.app() == AppKind.COMPLETION;
                case EMPTY_IS_FAILED -> setting.app() == AppKind.CHAT;
                default -> true;
            };
        }

        List<Verdict> verdicts(LookUp lookUp, LookUpResult found, LookUpRules.LookUpContext here, Instant now) {
            return wrong.verdicts(rules.verdicts(lookUp, found, here, now), lookUp, found, now);
        }

        private static Verdict again() {
            return new Verdict.SendAgain(Attempt.Tries.NONE, Optional.empty());
        }
    }

    /// An event and the state after it, or the check that failed.
    record Step(String name, ExploredWorld next, String violation) {
        boolean isViolated() {
            return !violation.isEmpty();
        }
    }

    /// A check has failed.
    private static final class Violation extends RuntimeException {
        Violation(String what) {
            super(what, null, false, false);
        }
    }

    /// `FLYING`: a request has no response. `LOOKING`: a run is to be looked up. `DOWN`: the process was killed.
    /// `OVER`: the session has nothing more to do.
    private enum Phase { FLYING, LOOKING, DOWN, OVER }

    private static final Duration TIMEOUT = seconds(300), LONGEST_OUTAGE = Duration.ofMinutes(5);
    private static final Judge JUDGE = new Judge(new Backoff(seconds(1), seconds(60), 1, () -> 1),
            Judge.RetryRuns.TRANSIENT, Given.ACCESS, List.of());
    private static final Row ROW = Given.row("a");
    /// The row may be sent once more, but what follows is as before.
    private static final int MOST_ATTEMPTS = 2;
    /// The times that the rules ask for: `--settle` of a stream and of a blocking run.
    private static final Duration WAIT = Duration.ofMinutes(20), SHORT_WAIT = seconds(30);
    private static final Duration LONG_WAIT = WAIT.plusSeconds(1); // only of streams
    /// The times after which something can have changed: a run may have begun, `TIMEOUT`, `--settle`, a week.
    private static final List<Duration> WAITS = List.of(seconds(31), seconds(301), LONG_WAIT, Duration.ofDays(8));
    /// Longer than any wait of a session that nothing prolongs: an outage, `TIMEOUT`, a look-up of an earlier attempt
    /// and 30 s for a run that was stopped.
    private static final Duration BOUND = LONGEST_OUTAGE.plus(TIMEOUT.multipliedBy(2)).plusMinutes(2);
    /// A stream that was sent this much later cannot have overtaken the first one.
    private static final Duration OVERTAKEN = seconds(2);
    private static final int MOST_LOOKS = 1_000;
    /// While a world is played to its end, look-ups come this much later than the tool's, so that there are fewer.
    private static final Duration PACE = seconds(45);
    private static final List<Field> STATE_OF_LOOK_UP = Stream.of(LookUp.class.getDeclaredFields())
            .filter(field -> !Modifier.isStatic(field.getModifiers()) && !Modifier.isFinal(field.getModifiers()))
            .peek(field -> field.setAccessible(true)).toList();
    private static final Map<String, Field> FIELDS = new ConcurrentHashMap<>();
    private static final Map<Setting, Release.Listing> LISTINGS = new ConcurrentHashMap<>();
    private static final Map<String, EndEvent> ENDS = new ConcurrentHashMap<>();
    private static final Map<String, Facts> FACTS = new ConcurrentHashMap<>();
    private static final Map<String, Verdict> JUDGED = new ConcurrentHashMap<>(); // the judge's patterns take long

    /// The ids of the rows, whose memory is allocated once. A status in it counts only while the lines are read.
    private static final ThreadLocal<Index> INDEX = ThreadLocal.withInitial(() -> {
        var index = new Index();
        index.add(ROW.id(), ROW.line(), ROW.fingerprint());
        index.endOfRows(0);
        return index;
    });

    private final Setting setting;
    private final Rules rules;
    private Instant now = NOON;
    private Phase phase = Phase.OVER;
    private RowStatus status = RowStatus.PENDING;
    private List<ExploredJob> jobs = List.of();
    private List<Attempt> attempts = List.of();
    private LookUp lookUp;
    private Instant due = NOON, start = NOON;
    private boolean isNamed = false, isStopAsked = false, hasOthers = true;
    /// Only while a world is played to its end, look-ups keep their pauses, and outages count.
    private boolean isPaced = false;
    private Duration outages = Duration.ZERO;
    /// What the batch's files contain, and as text what matters later.
    private List<Event> lines = List.of();
    private String trail = "";
    private Facts facts; // null until they are asked for

    /// A row has just been sent.
    ExploredWorld(Setting setting, Rules rules) {
        this.setting = setting;
        this.rules = rules;
        record(session());
        send(Attempt.Tries.NONE);
    }

    private ExploredWorld(ExploredWorld one) {
        setting = one.setting;
        rules = one.rules;
        now = one.now;
        phase = one.phase;
        status = one.status;
        jobs = one.jobs;
        attempts = one.attempts;
        lookUp = one.lookUp; // copied before it changes
        due = one.due;
        start = one.start;
        isNamed = one.isNamed;
        isStopAsked = one.isStopAsked;
        hasOthers = one.hasOthers;
        isPaced = one.isPaced;
        outages = one.outages;
        lines = one.lines;
        trail = one.trail;
        facts = one.facts;
    }

    private static LookUp copy(LookUp one) {
        var copy = new LookUp(one.attempt, one.purpose, one.reported, one.reason);
        try {
            for (var field : STATE_OF_LOOK_UP) field.set(copy, field.get(one));
        } catch (IllegalAccessException problem) {
            throw new IllegalStateException(problem);
        }
        return copy;
    }

    /// Returns all that can matter later, as text. Of a time, only its distance from now matters, and none that is
    /// longer than what the rules ask for.
    String key() {
        var key = new StringBuilder(200).append(phase).append(status).append(facts().rest());
        for (int index = 0; index < jobs.size(); index++) {
            var attempt = attempts.get(index);
            key.append(jobs.get(index).key(now)).append(attempt.tries().failed()).append(attempt.tries().throttled())
                    .append(passedAt(attempt).map(passed -> age(passed, WAIT)).orElse(-1L));
        }
        if (phase == Phase.FLYING) key.append(isNamed).append(isStopAsked).append(hasOthers)
                .append(age(start, TIMEOUT));
        if (phase != Phase.LOOKING) return key.toString();
        key.append(hasOthers).append(lookUp.purpose).append(lookUp.reason.symptom()).append(lookUp.attempt.user())
                .append(lookUp.attempt.isEarlier()).append(lookUp.run()).append(lookUp.stage())
                .append(age(lookUp.start(), TIMEOUT)).append(age((Instant) read(lookUp, "deadline"), Duration.ZERO))
                .append(lookUp.answeredAt().map(then -> age(then, SHORT_WAIT)).orElse(-1L))
                .append(lookUp.reported.getClass().getSimpleName()).append(lookUp.reported.httpStatus());
        if (lookUp.is(Symptom.UNCONFIRMED)) key.append(lookUp.reported.why());
        return key.toString();
    }

    /// Returns the value of a private field of the tool.
    private static Object read(Object owner, String name) {
        try {
            return FIELDS.computeIfAbsent(name, _ -> field(owner.getClass(), name)).get(owner);
        } catch (IllegalAccessException problem) {
            throw new IllegalStateException(problem);
        }
    }

    private static Field field(Class<?> type, String name) {
        try {
            var field = type.getDeclaredField(name);
            field.setAccessible(true);
            return field;
        } catch (NoSuchFieldException problem) {
            throw new IllegalStateException(problem);
        }
    }

    private long age(Instant time, Duration most) {
        if (time.equals(Instant.MAX)) return Long.MIN_VALUE;
        return Math.min(Duration.between(time, now).toMillis(), most.toMillis());
    }

    /// Returns the state of the attempt's life, as the picture above [LookUpRules] names it.
    String label() {
        var label = phase + " " + status + " " + attempts.size() + (isNamed ? " named" : "");
        if (phase == Phase.LOOKING) label += " " + lookUp.purpose + " " + lookUp.reason.symptom() + " " + lookUp.stage()
                + lookUp.run().map(RunRef::isMadeUp) + lookUp.hasRun();
        return label + " " + facts().awaited().size() + last().where().isPaid();
    }

    private ExploredJob last() {
        return jobs.getLast();
    }

    // ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    List<Step> steps() {
        var steps = new ArrayList<Step>();
        if (attempts.size() > MOST_ATTEMPTS || status.isSuccess()) return steps;
        switch (phase) {
            case FLYING -> {
                for (var job : last().moves(setting, now)) respond(steps, job);
            }
            case LOOKING -> {
                for (var job : job(lookUp.attempt).moves(setting, lookTime())) look(steps, job);
            }
            case DOWN -> step(steps, "the next session starts", ExploredWorld::restart);
            case OVER -> {
                if (!facts().awaited().isEmpty()) step(steps, "the session ends", ExploredWorld::lookForLate);
                step(steps, "the next session starts", ExploredWorld::restart);
            }
        }
        if (phase == Phase.FLYING || phase == Phase.LOOKING) {
            step(steps, "killed", world -> world.phase = Phase.DOWN);
            var passed = later(last().sent().plus(OVERTAKEN));
            boolean isPassed = passedAt(attempts.getLast()).isPresent();
            if (setting.isQueued() && hasOthers && !isPassed) for (var job : last().moves(setting, passed))
                if (job.where() != Where.DOOR && job.where() != Where.QUEUED)
                    step(steps, "a later stream begins (" + job.where() + ")", world -> world.pass(job));
            if (setting.isQueued() && hasOthers) step(steps, "the other rows end", world -> world.hasOthers = false);
        }
        if (phase != Phase.FLYING) for (var time : WAITS) if (setting.isQueued() || !time.equals(LONG_WAIT))
            step(steps, time + " passes", world -> world.now = now.plus(time));
        return steps;
    }

    private void step(List<Step> steps, String name, Consumer<ExploredWorld> event) {
        var next = new ExploredWorld(this);
        try {
            event.accept(next);
            steps.add(new Step(name, next, ""));
        } catch (Violation problem) {
            steps.add(new Step(name, next, problem.getMessage()));
        }
    }

    /// Returns when the look-up takes place: at once, because a time step may come before it, but a stop is confirmed
    /// after a moment.
    private Instant lookTime() {
        if (lookUp.stage() == LookUp.Stage.ENDED) return later(due);
        return isPaced ? later(due.plus(PACE)) : now;
    }

    private Instant later(Instant time) {
        return time.isAfter(now) ? time : now;
    }

    private ExploredJob job(Attempt attempt) {
        return jobs.get(index(attempt));
    }

    private int index(Attempt attempt) {
        for (int index = 0; index < attempts.size(); index++)
            if (attempts.get(index).user().equals(attempt.user())) return index;
        throw new IllegalStateException(attempt.user());
    }

    private void become(Attempt attempt, ExploredJob job) {
        var all = new ArrayList<>(jobs);
        all.set(index(attempt), job);
        jobs = all;
    }

    private RunRef run(Attempt attempt) {
        return Given.run("run-" + index(attempt));
    }

    /// A stream that was sent 2 s later has its first event.
    private void pass(ExploredJob job) {
        var attempt = attempts.getLast();
        now = later(attempt.at().plus(OVERTAKEN));
        become(attempt, job);
        var user = "other-" + attempts.size();
        record(new AttemptEvent(attempt.at().plus(OVERTAKEN), "b", 0, user, Mode.STREAMING, "", false, 0));
        record(new RunEvent(now, "b", user, "run-b", "task-of-run-b"));
    }

    // ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds each response that the request may get if its job is this.
    private void respond(List<Step> steps, ExploredJob job) {
        var attempt = attempts.getLast();
        var run = run(attempt);
        var named = Optional.of(run).filter(_ -> isNamed);
        boolean isAnswer = setting.app() == AppKind.CHATFLOW && !setting.isStream(), hasRuns = setting.app().hasRuns();
        var where = job.where();
        if (setting.isStream() && !isNamed && where.hasBegun())
            step(steps, "first event", world -> world.begin(job, run));
        if (setting.isStream() && isNamed && !isStopAsked) step(steps, "interrupted", world -> {
            world.record(new StopEvent(now, StopEvent.INTERRUPTED, attempt.user(), run.task(), 0));
            world.isStopAsked = true;
            world.phase = Phase.DOWN;
        });
        boolean mayEnd = !setting.isStream() || isNamed;
        var ends = new LinkedHashMap<String, Response>();
        if (!hasRuns && where.hasEnded() && (mayEnd || where.isFailed())) // an error may come before any event
            ends.put("ended as " + where, job.spoken(setting));
        if (mayEnd && where == Where.SUCCEEDED) ends.put("too large", new Response.Unreadable(named, "too large"));
        if (mayEnd && hasRuns) switch (where) {
            case SUCCEEDED, FAILED, FAILED_FOR_NOW -> ends.put("ended as " + where, job.end(run, isAnswer));
            case PAUSED -> ends.put("paused", ExploredJob.ran(run.id(), RunStatus.PAUSED, ""));
            case RUNNING -> ends.put("running", ExploredJob.ran(run.id(), RunStatus.RUNNING, ""));
            case STOPPED, DOOR, STARTING, QUEUED, RESERVED, LOST -> {}
        }
        if (mayEnd && hasRuns && where.hasBegun() && !isAnswer && where != Where.PAUSED && !where.isFailed())
            ends.put("stopped", ExploredJob.ran(run.id(), RunStatus.STOPPED, "Aborted: timed out"));
        if (where == Where.LOST && !isNamed) {
            ends.put("throttled", Given.THROTTLED);
            ends.put("rejected row", Given.http(400, "invalid_param", "text is required in input form"));
            ends.put("rejected key", Given.http(401, "unauthorized", "Access token is invalid"));
            ends.put("not sent", new Response.NotSent("connection refused", ""));
            if (setting.isQueued()) ends.put("rejected in the stream", Given.madeUp("x", "query is required"));
            if (setting.isQueued()) ends.put("unknown error in the stream", Given.madeUp("x", "the engine is lost"));
        }
        if (isNamed && hasRuns && !setting.isOld()) ends.put("made-up failure",
                new Response.Ran(run, RunStatus.FAILED, Given.outputs("{}"), "connection error", "", Usage.NONE));
        if (setting.isStream() && hasRuns)
            ends.put("error event", Response.Refused.event(500, "", "the worker is lost", named));
        if (where.hasBegun() && !setting.isStream() && hasRuns)
            ends.put("listener ended", Given.http(400, "invalid_param", "queue listening stopped unexpectedly"));
        if (where.hasBegun()) ends.put("of another row", new Response.Cut(named, Symptom.CONTRADICTED, "another run"));
        ends.put("cut", new Response.Cut(named, isNamed ? Symptom.CUT : Symptom.NO_RESPONSE, "cut"));
        if (!isNamed) ends.put("502", Given.html(502));
        if (!isNamed && where != Where.DOOR) ends.put("500", Given.http(500, "internal_server_error", "no"));
        // docs/guarantees.md: something in front of Dify sent this, and the queue does not have the request
        boolean isOutOfQueue = !setting.isQueued() || where == Where.LOST || where.hasBegun();
        if (!isNamed && isOutOfQueue) ends.put("503", Given.html(503));
        ends.forEach((name, response) -> step(steps, name + " (" + where + ")",
                world -> world.onResponse(job, name, response)));
        step(steps, "no response for TIMEOUT (" + where + ")", world -> {
            world.now = later(start.plus(TIMEOUT));
            var symptom = setting.isStream() && !isNamed ? Symptom.STREAM_SILENT : Symptom.TIMED_OUT;
            world.onResponse(job, "timeout", new Response.Cut(named, symptom, "no response"));
        });
    }

    private void begin(ExploredJob job, RunRef run) {
        become(attempts.getLast(), job);
        isNamed = true;
        start = now;
        record(new RunEvent(now, ROW.id(), attempts.getLast().user(), run.id(), run.task()));
    }

    private void onResponse(ExploredJob job, String name, Response response) {
        var attempt = attempts.getLast();
        int http = response.httpStatus();
        boolean isHeard = response instanceof Response.Unreadable
                || response instanceof Response.Ran ran && !ran.isBare();
        if (isHeard) become(attempt, job.heard());
        else become(attempt, Set.of(500, 502, 504).contains(http) ? job.quick() : job);
        var verdict = JUDGED.computeIfAbsent(name + isNamed + setting + attempt.user() + attempt.tries(),
                _ -> JUDGE.verdict(attempt, response));
        if (http != 0) record(new ResponseEvent(now, ROW.id(), attempt.user(), http));
        if (verdict instanceof Verdict.Unresolved && !isNamed) response.run().ifPresent(run ->
                record(new RunEvent(now, ROW.id(), attempt.user(), run.id(), run.task())));
        phase = null;
        carryOut(attempt, response, verdict);
    }

    // ── Look-ups ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds each result that the look-up may have if the job is this.
    private void look(List<Step> steps, ExploredJob job) {
        var run = run(lookUp.attempt);
        boolean isById = lookUp.run().filter(ref -> !ref.isMadeUp()).isPresent();
        var where = job.where();
        var results = new LinkedHashMap<String, LookUpResult>();
        boolean isAsked = setting.app() != AppKind.COMPLETION; // nothing shows completions
        if (!isAsked) results.put("not listed", job.seen(setting, run, isById, lookTime()));
        else if (where != Where.DOOR) { // a full server answers in the order of the requests
            var seen = job.seen(setting, run, isById, lookTime());
            results.put(seen.word(), seen);
            if (where == Where.SUCCEEDED && seen instanceof LookUpResult.Ended)
                results.put("too large",
                        new LookUpResult.Inconclusive(new Response.Unreadable(Optional.of(run), "too large")));
            results.put("of another row", LookUpResult.FOREIGN);
            results.put("refused", new LookUpResult.Inconclusive(Given.http(409, "conflict", "no")));
            results.put("rejected key", new LookUpResult.Inconclusive(Given.http(401, "unauthorized", "invalid")));
        }
        if (isAsked) results.put("cut", new LookUpResult.Inconclusive(Given.cut(Symptom.NO_RESPONSE)));
        if (isAsked) results.put("502", new LookUpResult.Inconclusive(Given.html(502)));
        results.forEach((name, found) -> step(steps, lookUp.purpose + " look-up: " + name + " (" + where + ")",
                world -> world.onLookUp(job, found)));
        boolean isShown = setting.app().hasRuns() && (isById || !setting.isOld());
        if (where == Where.RUNNING && job.misreported().isEmpty() && isShown)
            step(steps, lookUp.purpose + " look-up: stopped too early", world -> world.onLookUp(
                    job.misreported(lookTime()),
                    ExploredJob.ended(ExploredJob.ran(run.id(), RunStatus.STOPPED, "Aborted"))));
    }

    private void onLookUp(ExploredJob job, LookUpResult found) {
        var asked = copy(lookUp);
        var attempt = asked.attempt;
        boolean isAnswer = !(found instanceof LookUpResult.Inconclusive silent) || silent.isResponse();
        if (!isAnswer)
            outages = Collections.min(List.of(LONGEST_OUTAGE, outages.plus(Duration.between(now, lookTime()))));
        now = lookTime();
        lookUp = asked;
        become(attempt, job);
        asked.question(now, TIMEOUT);
        if (!Set.of("absent", "no response").contains(found.word())) record(new LookEvent(now, ROW.id(), attempt.user(),
                found.run().or(asked::run).map(RunRef::id).orElse(""), found.word()));
        asked.note(found, now, TIMEOUT);
        if (found.isThere() && facts().resent().contains(attempt.user())) record(new LateEvent(now, ROW.id(),
                attempt.user(), found.run().map(RunRef::id).orElse(""), found.word()));
        var here = new LookUpRules.LookUpContext(listing(attempt), passedAt(attempt), hasOthers,
                status, outages);
        phase = null;
        for (var verdict : rules.verdicts(asked, found, here, now))
            carryOut(attempt, LookUpRules.known(asked, found), verdict);
        if (phase == null && asked.purpose == Purpose.LATE) phase = Phase.OVER;
        if (phase == null) throw new Violation("nothing was decided");
    }

    /// All attempts went to the same server.
    private Release.Listing listing(Attempt attempt) {
        return LISTINGS.computeIfAbsent(setting, _ -> history().listing(attempt, new ModePolicy(setting.mode(),
                Optional.empty(), setting.app(), setting.version())));
    }

    private void lookForLate() {
        lookUp = rules.begun(LookUp.recheck(awaited(0), Purpose.LATE, Optional.empty()));
        due = now;
        phase = Phase.LOOKING;
    }

    // ── The engine ──────────────────────────────────────────────────────────────────────────────────────────────────

    private void carryOut(Attempt attempt, Response response, Verdict verdict) {
        switch (verdict) {
            case Outcome outcome -> finish(attempt, response, outcome);
            case Verdict.Take(var outcome, _) -> finish(attempt, response, outcome);
            case Verdict.Again(var end, var tries, var after, var why) -> {
                logEnd(attempt, end, response, why);
                schedule(tries, now.plus(after), Optional.empty());
            }
            case Verdict.Throttled(var after, var why) -> {
                logEnd(attempt, "throttled", response, why);
                schedule(attempt.tries().plus(0, 1), now.plus(after), Optional.empty());
            }
            case Verdict.Unresolved reason -> {
                var deadline = reason.symptom() == Symptom.TIMED_OUT ? now : start.plus(TIMEOUT);
                await(new LookUp(attempt, Purpose.OUTCOME, response, reason).setTimes(now, deadline));
            }
            case Verdict.LookAgain(var again, var next) -> {
                due = again.lookAgain(next, now);
                phase = Phase.LOOKING;
            }
            case Verdict.Close(var end, var why) -> logEnd(attempt, end, response, why);
            case Verdict.SendAgain(var tries, var checked) -> schedule(tries, now, checked);
            case Verdict.SettlesAt _ -> {}
            case Verdict.StopBatch(var stop, _) -> {
                if (!(response instanceof Response.Cut)) logEnd(attempt, "refused", response, stop.what());
                phase = Phase.DOWN;
            }
        }
    }

    private void await(LookUp unresolved) {
        lookUp = rules.begun(unresolved);
        due = now.plus(setting.app().firstLook());
        phase = Phase.LOOKING;
    }

    private void logEnd(Attempt attempt, String end, Response response, String why) {
        boolean isClosed = end.equals("not_started") && facts().closed().contains(attempt.user());
        if (!isClosed) recordEnd(attempt, end, response, why);
    }

    /// The event of the same end differs only in its time, and the patterns that clean its error take long.
    private void recordEnd(Attempt attempt, String end, Response response, String why) {
        var shown = response.run() + response.why() + response.getClass();
        var like = ENDS.computeIfAbsent(attempt.user() + end + why + shown, _ ->
                EndEvent.of(attempt, now, end, response, why, 0));
        record(new EndEvent(now, like.id(), like.user(), like.outcome(), like.fingerprint(), like.last(), like.edited(),
                0));
    }

    private void finish(Attempt attempt, Response response, Outcome outcome) {
        status = outcome.status();
        phase = Phase.OVER;
        if (status.isSuccess()) return; // nothing follows
        recordEnd(attempt, status.word(), response, outcome.text());
        if (status == RowStatus.PENDING) throw new Violation("ended without an outcome");
        if (status == RowStatus.FAILED) jobs.stream().filter(job -> job.where().isPaid()).findFirst().ifPresent(job -> {
            throw new Violation("counts as failed although a run is " + job.where());
        });
    }

    private void schedule(Attempt.Tries tries, Instant from, Optional<Attempt> checked) {
        var awaited = facts().awaited();
        int next = 1 + checked.map(one -> awaited.indexOf(one.user())).orElse(-1);
        now = later(from);
        if (next == awaited.size()) {
            send(tries);
            return;
        }
        due = now;
        lookUp = rules.begun(LookUp.recheck(awaited(next).limitedTo(now).with(ROW, tries), Purpose.RESEND, Optional.empty()));
        phase = Phase.LOOKING;
    }

    private void send(Attempt.Tries tries) {
        for (var job : jobs)
            if (job.where().isPaid()) throw new Violation("sent again although a run is " + job.where());
        int number = attempts.size() + 1;
        var attempt = Given.sent(number, ROW, tries, "user-" + number, setting.mode(), ROW.hash(), now);
        attempts = with(attempts, attempt);
        jobs = with(jobs, ExploredJob.sent(now));
        record(AttemptEvent.of(attempt, 0));
        phase = Phase.FLYING;
        status = RowStatus.PENDING;
        start = now;
        isNamed = isStopAsked = false;
    }

    private void restart() {
        outages = Duration.ZERO;
        hasOthers = true; // the log's line of the session changes nothing here, because all sessions are alike
        var history = history();
        var unresolved = Optional.ofNullable(history.unresolvedByRow().get(0));
        unresolved.ifPresentOrElse(one -> await(history.lookUp(one, ROW, now, TIMEOUT)),
                () -> schedule(Attempt.Tries.NONE, now, Optional.empty()));
    }

    private SessionEvent session() {
        var any = Given.session(0, setting.version());
        return new SessionEvent(now, any.program(), any.dify(), setting.mode(), false, any.csv(), any.call(), 0);
    }

    // ── The batch's files ───────────────────────────────────────────────────────────────────────────────────────────

    private void record(Event line) {
        var text = switch (line) {
            case AttemptEvent(_, _, _, var user, _, _, _, _) -> "A" + user;
            case RunEvent(_, _, var user, var run, _) -> "R" + user + run;
            case SessionEvent _ -> "";
            case LookEvent(_, _, var user, var run, var saw) -> "L" + user + run
                    + Set.of("failed", "stopped").contains(saw);
            case EndEvent end -> "E" + end.user() + end.outcome() + end.last().run();
            case StopEvent stop -> "S" + stop.user();
            case ResponseEvent(_, _, var user, int http) -> "H" + user + http;
            case LateEvent(_, _, var user, var run, var saw) -> "T" + user + run + saw;
            case MergeEvent _, FormEvent _, ExpiredEvent _, HarvestEvent _, ThrottleEvent _, TornEvent _ ->
                    throw new IllegalStateException("not part of the exploration");
        };
        if (line instanceof LookEvent && trail.contains(text)) return; // nothing new
        lines = with(lines, line);
        trail += text;
        facts = null;
    }

    /// What follows from the lines.
    ///
    /// @param awaited users of attempts that are looked up before the row is sent again
    /// @param resent  users of attempts after which the row was sent again
    /// @param closed  users of attempts that count as not started
    /// @param passed  by user, which line shows that a later stream has begun
    /// @param rest    all that the history knows of attempts, as text
    private record Facts(List<String> awaited, Set<String> resent, Set<String> closed, Map<String, Integer> passed,
            String rest) {
        static String rest(History history) {
            var queued = ((Map<?, ?>) read(history, "queued")).keySet();
            var sent = new StringBuilder().append(queued).append(read(history, "stoppedTasks"));
            for (var row : ((Map<?, ?>) read(history, "sent")).values()) for (var one : (List<?>) row)
                if (one instanceof History.TrackedAttempt attempt && attempt.event.id().equals(ROW.id()))
                    sent.append(attempt.event.user()).append(attempt.state).append(attempt.run).append(attempt.http);
            return sent.toString();
        }
    }

    /// Returns what [History] makes of the lines. It does not depend on their times, apart from the time of a line that
    /// shows a later stream.
    private Facts facts() {
        if (facts == null) facts = FACTS.computeIfAbsent(setting + trail, _ -> {
            var history = history();
            var passed = new HashMap<String, Integer>();
            for (var attempt : attempts) history.passedAt(attempt.user()).ifPresent(time ->
                    passed.put(attempt.user(), line(time, attempt.user())));
            return new Facts(history.unresolved(ROW).stream().map(Attempt::user).toList(),
                    users(history::isReportable), users(attempt -> history.isClosed(attempt, "not_started")), passed,
                    Facts.rest(history));
        });
        return facts;
    }

    /// Returns which line has shown at that time that the server has begun another request.
    private int line(Instant time, String user) {
        return IntStream.range(0, lines.size()).filter(line -> lines.get(line).t().equals(time)
                && switch (lines.get(line)) {
                    case RunEvent run -> !run.user().equals(user);
                    case LookEvent look -> !look.user().equals(user);
                    default -> false;
                }).findFirst().orElseThrow();
    }

    private Set<String> users(Predicate<Attempt> which) {
        return attempts.stream().filter(which).map(Attempt::user).collect(Collectors.toSet());
    }

    private Optional<Instant> passedAt(Attempt attempt) {
        return Optional.ofNullable(facts().passed().get(attempt.user())).map(line -> lines.get(line).t());
    }

    /// Returns an attempt that is awaited, as the log shows it.
    private Attempt awaited(int number) {
        var user = facts().awaited().get(number);
        var one = attempts.stream().filter(attempt -> attempt.user().equals(user)).findFirst().orElseThrow();
        return new Attempt(0, ROW, new Attempt.Tries(0, 0, one.tries().retries()), user, one.mode(), one.fingerprint(),
                one.at(), false);
    }

    private History history() {
        var index = INDEX.get();
        for (int entry = 0; entry < index.size(); entry++) index.setStatus(entry, RowStatus.PENDING);
        var history = new History(index);
        lines.forEach(history::apply);
        return history;
    }

    private static <T> List<T> with(List<T> former, T more) {
        var all = new ArrayList<>(former);
        all.add(more);
        return all;
    }

    // ── Every wait ends ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Returns what is wrong if the row's look-ups do not end, neither if Dify shows what there is, nor if it never
    /// answers again, although nothing else happens.
    Optional<String> endlessWait() {
        if (phase != Phase.LOOKING && phase != Phase.FLYING) return Optional.empty();
        for (boolean isSilent : List.of(false, true)) {
            var world = new ExploredWorld(this);
            world.hasOthers = false;
            world.isPaced = true;
            try {
                if (phase == Phase.FLYING) world.onResponse(last(), "cut", new Response.Cut(
                        Optional.of(run(attempts.getLast())).filter(_ -> isNamed), Symptom.CUT, "cut"));
                var begins = world.later(world.due);
                for (int looks = 0; world.phase == Phase.LOOKING; looks++) {
                    if (looks == MOST_LOOKS || world.now.isAfter(begins.plus(BOUND)))
                        return Optional.of("waits without an end, " + (isSilent ? "unanswered" : "answered"));
                    world.lookOnce(isSilent);
                }
            } catch (Violation problem) {
                return Optional.of(problem.getMessage());
            }
        }
        return Optional.empty();
    }

    private void lookOnce(boolean isSilent) {
        var at = lookTime();
        var job = job(lookUp.attempt).settled(setting, at);
        boolean isById = lookUp.run().filter(ref -> !ref.isMadeUp()).isPresent();
        boolean isUnanswered = isSilent && setting.app() != AppKind.COMPLETION;
        onLookUp(job, isUnanswered ? new LookUpResult.Inconclusive(Given.cut(Symptom.NO_RESPONSE))
                : job.seen(setting, run(lookUp.attempt), isById, at));
    }
}
