///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Simulates a Dify server of version 1.9.2, 1.14.2, 1.16.0 or 1.16.1 over real HTTP, with chosen faults.
//SOURCES SimulatedServer.java
//SOURCES SimulatedExchange.java
//SOURCES SimulatedRoute.java
//SOURCES SimulatedGateway.java
//SOURCES SimulatedDify.java
//SOURCES SimulatedWorkers.java
//SOURCES SimulatedLedger.java
//SOURCES SimulatedJob.java
//SOURCES SimulatedRun.java
//SOURCES SimulatedMessage.java
//SOURCES SimulatedModel.java
//SOURCES SimulatedTalk.java
//SOURCES SimulatedConversations.java
//SOURCES SimulatedJson.java
//SOURCES SimulatedForm.java
//SOURCES SimulatedFiles.java
//SOURCES SimulatedGraph.java
//DEPS info.picocli:picocli:4.7.7
//DEPS com.fasterxml.jackson.core:jackson-databind:2.21.8

package difyexec;

import com.fasterxml.jackson.databind.*;
import picocli.CommandLine;
import picocli.CommandLine.*;
import picocli.CommandLine.Model.*;

import module java.base;

import static difyexec.SimulatedJson.object;

/// A Dify server with one app of any kind, for tests and benchmarks. This class decides what goes wrong and when;
/// [SimulatedRun], [SimulatedMessage], [SimulatedTalk] and [SimulatedDify] write the answers, field for field. It uses
/// nothing of the tool, so that it starts without compiling it.
///
/// Every start of a row (its `id`) rolls one die, made of the seed, the id and the count of its starts: the same rows
/// meet the same trouble in any order. A run continues whatever its client does. Connections are served by hand and
/// not by the JDK's server, so that the eleventh can be left waiting without a sign, and a chunk cut in its middle.
@Command(name = "simulator", mixinStandardHelpOptions = true, version = "simulator of Dify " + SimulatedRun.VERSIONS,
        sortOptions = false, usageHelpWidth = 100,
        description = {"Simulates a Dify server over HTTP. Prints its address on the first line of stdout. Accepts "
                + "any key that starts with app-, and the key " + Simulator.WORKSPACE_KEY + " for two apps, "
                + Simulator.FIRST_APP + " and " + Simulator.SECOND_APP + ". GET /__stats counts the runs of each row "
                + "(?rows=0: totals only).", "",
                "A share is 3%% or 0.03, and is rolled at each start of a row. A row can request a fault by name in "
                + "any of its inputs: [drop-before] for its first start, [drop-before!] for every start; "
                + "also [latency 5s], [queue 10s] and [move 400s].", "",
                "In apps without a workflow (chat, agent-chat, agent, completion), words at the start of a question "
                + "steer the model: sleep=4, long=25 pause=200, say=Yes, empty, braces, think, fail=rate (or invoke, "
                + "auth, bad, conn, down, inner, cut, after:3), tool=current_time or tool, react, ask. A row is stored "
                + "as in Dify: that of a stream only if its client is there to the end.", ""},
        footer = {"", "Example: ./jbang simulator --port 5001 --dify 1.14.2 --latency 200ms --drop-after 5%%"})
final class Simulator implements Callable<Integer> {
    static final String WORKSPACE_KEY = "sk-0b8e7c52-3f19-4d6a-9a57-6c1e2d4f8b90";
    static final String FIRST_APP = "4a1f6c0e-7d52-4b8e-9c3a-1f2e3d4c5b6a",
            SECOND_APP = "9d8c7b6a-5f4e-4d3c-8b2a-a1b2c3d4e5f6";

    @Option(names = "--port", paramLabel = "N", defaultValue = "0", description = "Listen here; 0 for any free port.")
    int port;

    @Option(names = "--dify", paramLabel = "VERSION", defaultValue = "1.14.2",
            description = "Simulate " + SimulatedRun.VERSIONS + " (default: ${DEFAULT-VALUE}).")
    SimulatedRun.Version version;

    @Option(names = "--app", paramLabel = "KIND", defaultValue = "workflow",
            description = "Serve a workflow, chatflow, chat, agent-chat, agent or completion app "
                    + "(default: ${DEFAULT-VALUE}).")
    Setup.Kind app;

    @Option(names = "--opening", paramLabel = "TEXT", defaultValue = "",
            description = "Introduce each conversation of a chat or agent-chat app with this, and fill in {{id}}.")
    String opening;

    @Option(names = "--files", paramLabel = "N", defaultValue = "0",
            description = "Let an app without a workflow take N images or documents beside each question, and refuse "
                    + "more (default: ignore all; the new agent takes any).")
    int files;

    @Option(names = "--react", description = "Let an agent-chat app use the strategy ReAct, not function calls.")
    boolean isReact;

    @Option(names = "--unpriced", description = "Let the model of an app without a workflow have no price list.")
    boolean isUnpriced;

    @Option(names = "--longest", paramLabel = "S", defaultValue = "1200s",
            description = "End rows of apps without a workflow after this long, as if they were stopped "
                    + "(default: ${DEFAULT-VALUE}).")
    Duration longest;

    @Option(names = "--columns", paramLabel = "A,B", split = ",", defaultValue = "id,text",
            description = "Give the workflow these text variables; drop other inputs (default: ${DEFAULT-VALUE}).")
    List<String> columns;

    @Option(names = "--form", paramLabel = "FILE",
            description = "Read the workflow's typed variables from this file, a user_input_form as in GET "
                    + "/v1/parameters; refuse runs with invalid inputs as Dify does.")
    Path form;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1", description = "Seed latencies and faults.")
    long seed;

    @Option(names = "--latency", paramLabel = "S", defaultValue = "100ms",
            description = "Let a run take this long (default: ${DEFAULT-VALUE}).")
    Duration latency;

    @Option(names = "--jitter", paramLabel = "S", defaultValue = "0", description = "Add up to this much to it.")
    Duration jitter;

    @Option(names = "--queue", paramLabel = "S|S..S", defaultValue = "0",
            description = "Start streamed runs from 1.14.2 on this much later, silently, even if the client "
                    + "disconnects.")
    Span queue;

    @Option(names = "--silence", paramLabel = "S", defaultValue = "300s",
            description = "End streams from 1.14.2 on this long after their last event, if it was not the end "
                    + "(default: ${DEFAULT-VALUE}).")
    Duration silence;

    @Option(names = "--speed", paramLabel = "N", defaultValue = "1",
            description = "Speed up all times of runs and streams by this factor.")
    int speed;

    @Option(names = "--places", paramLabel = "N", defaultValue = "0",
            description = "Serve at most N connections, including idle, abandoned and lingering ones; a default "
                    + "Dify has 10 (default: no limit).")
    int places;

    @Option(names = "--limit", paramLabel = "N", defaultValue = "0",
            description = "Refuse more than N active requests with 400 'Too many requests.'; from 1.14.2 on, "
                    + "streams of a worker are not limited, but 1 refuses all of them (default: no limit).")
    int limit;

    @Option(names = "--workers", paramLabel = "N", defaultValue = "0",
            description = "Run streamed jobs from 1.14.2 on in N workers. Each reserves one job per slot, which then "
                    + "waits for this worker, unseen, even if another one is free (default: all run at once).")
    int workers;

    @Option(names = "--slots", paramLabel = "N", defaultValue = "1",
            description = "Let each of the --workers run N jobs at a time (default: ${DEFAULT-VALUE}).")
    int slots;

    @Option(names = "--start", paramLabel = "S|S..S", defaultValue = "0",
            description = "Record runs that no worker takes this long after their request was accepted. With "
                    + "--places, requests wait to be accepted, and run even if their clients have left.")
    Span start;

    @Option(names = "--buffer", paramLabel = "S=ANSWER",
            description = "Let requests for runs pass a gateway that buffers whole responses, and after S answers 500, "
                    + "502, 503, 504 or page; Dify continues.")
    SimulatedGateway buffer;

    @Option(names = "--torn", description = "Show each message of an app without a workflow once without its answer, "
            + "but with its tokens, when it is first read after its row has ended.")
    boolean isTorn;

    @Option(names = "--output-score", description = "Add a number, score, to the outputs of each run of a workflow.")
    boolean outputScore;

    @Spec CommandSpec spec;

    static void main(String... args) {
        System.exit(commandLine().execute(args));
    }

    /// Reads the options.
    static Simulator of(String... options) {
        var line = commandLine();
        line.parseArgs(options);
        return line.getCommand();
    }

    static CommandLine commandLine() {
        var line = new CommandLine(new Simulator());
        for (var fault : Fault.values()) if (fault != Fault.NONE) line.getCommandSpec().addOption(OptionSpec
                .builder(fault.option()).paramLabel("P").type(Share.class).description(fault.description).build());
        return line.setOverwrittenOptionsAllowed(true)
                .registerConverter(Duration.class, Span::time)
                .registerConverter(SimulatedRun.Version.class, SimulatedRun.Version::of)
                .registerConverter(Setup.Kind.class, Setup.Kind::of)
                .registerConverter(SimulatedGateway.class, SimulatedGateway::of)
                .registerConverter(Share.class, Share::of).registerConverter(Span.class, Span::of);
    }

    @Override
    public Integer call() throws Exception {
        var dify = new SimulatedDify(behaviour(), setup());
        var second = new SimulatedDify(behaviour(), setup());
        prepare(dify);
        prepare(second);
        var server = SimulatedServer.start(port, places, dify);
        server.addWorkspace(WORKSPACE_KEY, Map.of(FIRST_APP, dify, SECOND_APP, second));
        spec.commandLine().getOut().println(server.baseUrl());
        spec.commandLine().getOut().flush();
        Thread.currentThread().join(); // until it is killed
        return 0;
    }

    /// Applies the options that a test can also change while the server runs.
    void prepare(SimulatedDify dify) {
        if (buffer != null) dify.putBehind(buffer);
        if (isTorn) dify.tearMessages();
        if (outputScore) dify.outputScores();
    }

    /// The app, as the options describe it.
    Setup setup() {
        if (app == Setup.Kind.AGENT && version == SimulatedRun.Version.V1_9_2)
            throw new ParameterException(spec.commandLine(), "--app agent: Dify " + version.number
                    + " has no such app");
        return new Setup("simulated", Optional.empty(), app, _ -> true, new Setup.Traits(
                Optional.of(opening), files, isReact, !isUnpriced, longest));
    }

    Behaviour behaviour() {
        var shares = new EnumMap<Fault, Share>(Fault.class);
        for (var fault : Fault.values()) {
            var option = spec.findOption(fault.option());
            if (option != null && option.getValue() instanceof Share share) shares.put(fault, share);
        }
        if (speed < 1) throw new ParameterException(spec.commandLine(), "--speed=" + speed + " must be at least 1");
        return new Behaviour(version, fields(), seed, new Pace(speed), latency, jitter, queue, start, silence,
                limit, workers, slots, shares);
    }

    private JsonNode fields() {
        if (form == null) return SimulatedJob.Published.texts(columns);
        try {
            var read = new ObjectMapper().readTree(form.toFile());
            return read.isArray() ? read : read.path("user_input_form");
        } catch (IOException problem) {
            throw new ParameterException(spec.commandLine(), form + " is not a form: " + problem.getMessage());
        }
    }

    // ── What a row meets ────────────────────────────────────────────────────────────────────────────────────────────

    /// A share of all starts: `3%` or `0.03`.
    record Share(double of) {
        static Share of(String text) {
            var match = Pattern.compile("(\\d+(?:\\.\\d+)?)(%?)").matcher(text.strip());
            var share = match.matches() ? Double.parseDouble(match.group(1)) / (match.group(2).isEmpty() ? 1 : 100) : 2;
            if (share > 1) throw new TypeConversionException("'" + text + "' is not a share like 3% or 0.03");
            return new Share(share);
        }
    }

    /// A time or a range: `5s`, `0..20s`.
    record Span(Duration from, Duration to) {
        static Span of(String text) {
            var ends = text.split("\\.\\.", 2);
            var to = time(ends[ends.length - 1]);
            return new Span(ends.length == 1 ? to : time(ends[0]), to);
        }

        /// `90`, `1.5s`, `500ms`, `2m`
        static Duration time(String text) {
            var match = Pattern.compile("(\\d{1,8}(?:\\.\\d+)?) *(ms|s|m|h)?").matcher(text.strip());
            if (!match.matches()) throw new TypeConversionException("'" + text + "' is not a time like 90, 1.5s or 2m");
            var unit = switch (match.group(2)) {
                case "ms" -> ChronoUnit.MILLIS;
                case "m" -> ChronoUnit.MINUTES;
                case "h" -> ChronoUnit.HOURS;
                case null, default -> ChronoUnit.SECONDS;
            };
            return Duration.ofMillis(Math.round(Double.parseDouble(match.group(1)) * unit.getDuration().toMillis()));
        }

        Duration at(double share) {
            return from.plusMillis((long) (share * to.minus(from).toMillis()));
        }
    }

    /// Faults of one start of a row.
    enum Fault {
        /// No fault; has no option.
        NONE(""),
        DROP_BEFORE("Cut before the first event; the run continues."),
        DROP_AFTER("Cut after the first event or within the answer."),
        LOSE_FINISH("End the stream without workflow_finished (from 1.14.2 on: after --silence); send no "
                + "blocking answer."),
        GATEWAY("Answer 502, 503 or 504 like a proxy (HTML, no X-Version); the run continues."),
        ERROR_500("Answer 500 in JSON; the run continues."),
        NEVER("Never answer; the run stays running for ever; a stream from 1.14.2 on is silent because "
                + "its worker was killed."),
        LOST("Lose the request in a crash: no run, no trace, no answer (streams from 1.14.2 on: a ping, "
                + "then silence)."),
        THROTTLE("Answer 400 'Too many requests.' and start nothing."),
        REFUSE("Refuse the inputs; streams of 1.14.2 report it inside and stay open for --silence; those "
                + "of 1.16.0 make up a failed run and end."),
        FAIL("Fail the run permanently."),
        FLAKY("Fail the run with a model's rate limit."),
        PARTIAL("End the run as partial-succeeded."),
        STOPPED("Report the run as stopped by the time limit; it continues and succeeds later (1.16.0: it "
                + "is also stored as stopped). Apps without a workflow report and store the answer so far, if any."),
        FALSE_FAIL("Report the run as failed by a rate limit; it continues and succeeds later."),
        OTHER_END("Send the end of another run in a stream; its own run continues."),
        ERROR_FIRST("Send an error in a stream, then the end of its run."),
        KILL("Kill the process with the request during the run: no answer; a stream from 1.14.2 on is "
                + "cut and its run continues, other runs stay running for ever; slots stay taken."),
        STEP_LIMIT("Let the run reach the step limit with complete outputs: reported as failed (1.16.0: "
                + "stopped), stored as stopped."),
        TIME_LIMIT("Let the run reach the engine's time limit, in 1.9.2 before its outputs; in an app without a "
                + "workflow like --stopped."),
        BROKEN("Break streams of 1.16.0: a failed end is made up; the run is stored as succeeded."),
        BROKEN_RUNNING("Like --broken, during the run: it continues."),
        BROKEN_ABSENT("Like --broken, before the run starts."),
        WORKER_ENDED("Shut the worker down during the run: streams of 1.16.0 end as stopped, and are stored as "
                + "stopped."),
        REPLACE("Replace an answer by moderation (not in workflows and agents); a run keeps its own."),
        PRESET("Let moderation answer the question, without a run and without asking the model."),
        PAUSE("Let the run wait for a person, who soon answers its form (from 1.14.2 on); an agent asks back."),
        UNRECORDED("Report the end in a stream, but leave the run's record running, as after a restart of the "
                + "database."),
        EMPTY("Let the model answer without text (apps without a workflow)."),
        TRUNCATE("End the answer after its first piece like a whole one, without tokens and prices (seen in 1.9.2, "
                + "apps without a workflow)."),
        EMPTY_OUTPUT("Let the run succeed with an empty text as answer."),
        NO_OUTPUT("Let the run succeed without its output score."),
        WRONG_OUTPUT("Let the run succeed with a text as score."),
        FREEZE("Let nothing arrive any more, and keep the connection open, as if the network were gone; the server "
                + "does not notice.");

        /// The help of the option that sets its share.
        final String description;

        Fault(String description) {
            this.description = description;
        }

        String word() {
            return name().toLowerCase(Locale.ROOT).replace('_', '-');
        }

        String option() {
            return "--" + word();
        }

        /// Met only by streams of 1.16.0.
        boolean isOfNewStreams() {
            return this == BROKEN || this == BROKEN_RUNNING || this == BROKEN_ABSENT || this == WORKER_ENDED;
        }
    }

    /// The course of one start. `die` chooses among the ways in which a fault shows.
    record Fate(Fault fault, Duration queue, Duration latency, Duration move, int die) {
        /// More than any die.
        static final int DICE = 1 << 20;
    }

    /// Speeds time up: `times` as fast as real time.
    record Pace(int times) {
        void pause(Duration time) throws InterruptedException {
            Thread.sleep(time.dividedBy(times));
        }

        long millis(Duration time) {
            return time.dividedBy(times).toMillis();
        }
    }

    /// `fields` is the form as in `/parameters`.
    record Behaviour(SimulatedRun.Version version, JsonNode fields, long seed, Pace pace, Duration latency,
                     Duration jitter, Span queue, Span start, Duration silence, int limit, int workers,
                     int slots, Map<Fault, Share> shares) {
        private static final Pattern TIMES = Pattern.compile("\\[(latency|queue|move) (\\d+(?:\\.\\d+)?(?:ms|s|m)?)]");

        Behaviour with(long seed) {
            return new Behaviour(version, fields, seed, pace, latency, jitter, queue, start, silence, limit,
                    workers, slots, shares);
        }

        Fate fate(String id, int start, Map<?, ?> inputs) {
            var mixed = new SplittableRandom(seed ^ (long) id.hashCode() << 24 ^ start);
            var random = new SplittableRandom(mixed.nextLong());
            var fault = rolled(random.nextDouble());
            var latency = this.latency.plusMillis((long) (random.nextDouble() * jitter.toMillis()));
            var queue = this.queue.at(random.nextDouble());
            var move = Duration.ZERO;
            int die = random.nextInt(Fate.DICE);
            for (var value : inputs.values()) {
                if (!(value instanceof String text) || text.indexOf('[') < 0) continue;
                for (var each : Fault.values()) if (text.contains("[" + each.word() + "!]")
                        || start == 1 && text.contains("[" + each.word() + "]")) fault = each;
                for (var match : TIMES.matcher(text).results().toList()) {
                    var time = Span.time(match.group(2));
                    switch (match.group(1)) {
                        case "queue" -> queue = time;
                        case "move" -> move = time;
                        default -> latency = time;
                    }
                }
            }
            return new Fate(fault, queue, latency, move, die);
        }

        private Fault rolled(double die) {
            for (var share : shares.entrySet()) {
                die -= share.getValue().of();
                if (die < 0) return share.getKey();
            }
            return Fault.NONE;
        }
    }

    /// The app apart from its form: its name, its graph (without one it answers with its texts), its
    /// state, whether an address that a run gives as a file answers, and what an app without a workflow has.
    record Setup(String name, Optional<SimulatedGraph> graph, Kind kind, Predicate<URI> answers, Traits traits) {
        /// `mode` is the mode in `/info`.
        enum Kind {
            WORKFLOW("workflow"), UNPUBLISHED("workflow"), CHATFLOW("advanced-chat"), CHAT("chat"),
            AGENT_CHAT("agent-chat"), AGENT("agent"), COMPLETION("completion");

            final String mode;

            Kind(String mode) {
                this.mode = mode;
            }

            static Kind of(String word) {
                return Stream.of(values()).filter(kind -> kind != UNPUBLISHED && (kind.word().equals(word)
                        || kind.mode.equals(word))).findFirst().orElseThrow(() -> new TypeConversionException("'" + word
                                + "' is not workflow, chatflow, chat, agent-chat, agent or completion"));
            }

            String word() {
                return name().toLowerCase(Locale.ROOT).replace('_', '-');
            }

            /// Whether it is asked at `/chat-messages`.
            boolean isChat() {
                return this == CHATFLOW || isPlain() && this != COMPLETION;
            }

            /// Whether it lacks a workflow.
            boolean isPlain() {
                return switch (this) {
                    case CHAT, AGENT_CHAT, AGENT, COMPLETION -> true;
                    case WORKFLOW, UNPUBLISHED, CHATFLOW -> false;
                };
            }
        }

        /// What an app without a workflow has.
        ///
        /// @param opening  its opening statement; empty if it was never set up
        /// @param files    how many files a question may have
        /// @param isReact  the strategy of an agent
        /// @param isPriced whether its model has a price list
        /// @param longest  how long a row may take
        record Traits(Optional<String> opening, int files, boolean isReact, boolean isPriced, Duration longest) {
            static final Traits USUAL = new Traits(Optional.of(""), 0, false, true, Duration.ofSeconds(1200));
            private static final List<String> METHODS = List.of("remote_url", "local_file");

            /// `file_upload` in `/parameters`.
            Map<String, Object> uploads(Kind kind) {
                if (kind == Kind.AGENT) return object("enabled", true, "allowed_file_extensions",
                        List.of("JPG", "JPEG", "PNG", "GIF", "WEBP", "SVG"), "allowed_file_types",
                        List.of("document", "image", "audio", "video"), "allowed_file_upload_methods",
                        METHODS.reversed(), "image", object("enabled", true), "number_limits", 3);
                if (files == 0) return object("image", object("detail", "high", "enabled", false,
                        "number_limits", 3, "transfer_methods", METHODS));
                return object("enabled", true, "allowed_file_types", List.of("image", "document"),
                        "allowed_file_extensions", List.of(), "allowed_file_upload_methods", METHODS,
                        "number_limits", files, "image", object("enabled", true, "number_limits", files,
                                "detail", "low", "transfer_methods", METHODS));
            }
        }

        Setup(String name, Optional<SimulatedGraph> graph, Kind kind, Predicate<URI> answers) {
            this(name, graph, kind, answers, Traits.USUAL);
        }

        static final Setup PLAIN = new Setup("simulated", Optional.empty(), Kind.WORKFLOW, _ -> true);

        Setup with(Kind kind) {
            return new Setup(name, graph, kind, answers, traits);
        }
    }

    /// Which keys are accepted; `FORGOTTEN`: the app was deleted, and its keys with it.
    enum Access { OPEN, DISABLED, DELETED, FORGOTTEN }
}
