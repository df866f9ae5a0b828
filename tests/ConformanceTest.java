package difyexec;

import com.fasterxml.jackson.databind.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;
import difyexec.Recorded.Exchange;
import difyexec.Simulator.Setup.Kind;
import difyexec.SimulatedGraph.Step;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.JSON;
import static java.nio.charset.StandardCharsets.*;
import static org.junit.jupiter.api.Assertions.*;

/// Checks the simulator against four real servers. Each recorded request is sent to a simulator set up like the
/// server. Its answer must have the same status, content type and shape ([Recorded.Shape]), a stream the same events in
/// the same order and the same end. In apps without a workflow, where the model's pieces follow from times, repeated
/// events count once; there it must also have asked the model as often, and stored the same message. All cases of a
/// version are replayed in parallel, with time passing four times faster, and faster still while nothing else happens.
class ConformanceTest {
    private static final Duration PATIENCE = Duration.ofSeconds(8);

    // ── What is not compared ────────────────────────────────────────────────────────────────────────────────────────

    /// Exchanges that are not compared, as `version case[number]`, each with the reason.
    private static final Pattern LEFT_OUT = Pattern.compile("(" + String.join("|",
            ".* still_running\\[.*", // repeats the look-ups of api_killed and worker_killed an hour later
            ".* redelivered\\[.*", // a broker that gives jobs back after an hour is not played
            ".* http_details\\[(4|12)\\]", // the recorder cut the middle out of this stream
            ".* http_details\\[22\\]", // the gzipped body was not kept
            "1.14.2 api_ended_.*\\[1\\]", // refused at the socket: the server that ends is not played
            "1.16.0 api_ended_streaming\\[1\\]", // refused at the socket: the server that ends is not played
            "1.16.1 api_ended_.*\\[1\\]", // refused at the socket: the server that ends is not played
            ".* proxy_errors\\[1\\]", // the body limit of a proxy is not played
            "(1.9.2|1.14.2) proxy_timeout\\[4\\]", // a proxy that buffers streams is not played
            ".* slots_after_kill\\[2\\]", // the slots come back after ten minutes
            ".* events_route\\[.*|.* GET /v1/workflow/.*/events", // difyexec does not reconnect to a run
            "1.16.0 human\\[(11|18)\\]", // ended while another client had reconnected
            ".* log_filters\\[(1|2|8)\\]", // the server's log also had the runs of other cases
            ".* log_filters\\[12\\]", // asks for a part of a run id of the recording
            ".* log_filters\\[18\\]", // asks for the time of the recording
            ".* log_filters\\[21\\]", // not asked by difyexec
            ".* GET /v1/(meta|site)", // not asked by difyexec
            ".* (GET|POST) /v1/(messages/[^/?]+/.*|text-to-audio|app/feedbacks)", // not asked by difyexec
            ".* llm_still\\[.*", // repeats look-ups of other cases half an hour later
            ".* llm_\\w+\\[\\d+\\] (wf|cf)_llm.*", // an LLM node with pieces over time is not played
            ".* chat_(blocking|streaming)_noprovider\\[0\\].*", // the simulated model has its provider
            "1.16.1 llm_ended_short\\[29\\].*", // refused at the socket: the server that ends is not played
            ".* chat_crowded_left\\[.*", // this server did not serve its connections in their order
            ".* chat_conversations\\[[1-5]\\].*", // chance orders conversations of the same second
            ".* chat_same_user\\[[34]\\].*", // chance decides which of three first rows keeps the end user
            // iterations, loops and parallel nodes are not played: difyexec reads no events of them
            ".* iterate_parallel\\[.*",
            ".* chatflow_moderated_in\\[(6|9)\\]") + ").*"); // the input that moderation adds is not played

    private static boolean isLeftOut(Exchange exchange) {
        return LEFT_OUT.matcher(exchange + " " + exchange.line()).matches();
    }

    // ── The recorded apps ───────────────────────────────────────────────────────────────────────────────────────────

    /// The variables and the workflow of a recorded app. `newer` are those from 1.14.2 on, if the versions differ.
    private record App(String fields, String newer, SimulatedGraph graph) {
        static App of(String fields, String outputs, Step... steps) {
            return new App(fields, fields, graph(outputs, steps));
        }

        JsonNode fields(String version) {
            return Given.tree("[" + (version.equals("1.9.2") ? fields : newer).replace('\'', '"') + "]");
        }

        /// `outputs`: `name=node.output`, separated by blanks.
        static SimulatedGraph graph(String outputs, Step... steps) {
            var given = new LinkedHashMap<String, String>();
            for (var output : outputs.isEmpty() ? new String[0] : outputs.split(" "))
                given.put(output.split("=")[0], output.split("=")[1]);
            return new SimulatedGraph(List.of(steps), given);
        }
    }

    private static final String ROW = field("text-input", "id", "'max_length':256,'required':true");
    private static final String NUMBERS = field("number", "delay_ms", "") + "," + field("number", "status", "");
    private static final String ECHO = ROW + "," + field("paragraph", "body_text", "'required':true") + "," + NUMBERS;
    private static final String OPEN = ECHO.replace("\"required\":true", "\"required\":false");
    private static final String KINDS = "'allowed_file_extensions':[],'allowed_file_types':['document','image'],"
            + "'allowed_file_upload_methods':['local_file','remote_url']";
    private static final String TYPED = ECHO + ","
            + field("select", "lang", "'options':['en','ja','zh'],'required':true") + ","
            + field("select", "tone", "'options':['formal','casual']") + ","
            + field("text-input", "short", "'max_length':8") + "," + field("checkbox", "strict", "") + ","
            + field("file", "doc", KINDS) + "," + field("file-list", "docs", "'max_length':3," + KINDS);
    private static final String ID = field("text-input", "id", "'max_length':256");
    private static final String ANSWER = "answer=call.body http_status=call.status_code row_id=start.id";
    private static final Step CALL = new Step.Call("call", false);
    private static final String ASKED = "{'text-input':{'label':'id','variable':'id','required':true,'default':'',"
            + "'max_length':48}}";
    private static final String TEXT = ",{'paragraph':{'label':'text','variable':'text','required':true,'default':''}}";
    private static final String CHOSEN = ",{'select':{'label':'tone','variable':'tone','required':false,'default':'',"
            + "'options':['formal','casual']}},{'number':{'label':'n','variable':'n','required':false,'default':''}},"
            + "{'paragraph':{'label':'note','variable':'note','required':false,'default':'','max_length':200}}";
    private static final String STRICT = ",{'checkbox':{'label':'strict','variable':'strict','required':false,"
            + "'default':''}}";

    private static final Map<String, App> APPS = new HashMap<>();

    static {
        APPS.put("echo", App.of(ECHO, ANSWER, CALL));
        APPS.put("partial", App.of(ECHO, ANSWER, new Step.Call("call", true)));
        APPS.put("typed", new App(TYPED, TYPED + "," + field("json_object", "meta",
                "'json_schema':{'type':'object','properties':{'k':{'type':'string'}}}"), App.graph(ANSWER
                + " lang=start.lang strict=start.strict doc=start.doc docs=start.docs", CALL)));
        APPS.put("limited_one", App.of(ECHO, "id=start.id", CALL));
        APPS.put("twice", App.of(ECHO, "first=start.id", CALL));
        APPS.put("published again", App.of(ECHO + "," + field("paragraph", "extra", ""),
                "first=start.id added_1=call.status_code", CALL));
        APPS.put("needs", App.of(ID + "," + field("number", "num", "'required':true") + ","
                + field("select", "pick", "'required':true,'options':['a','b']") + ","
                + field("checkbox", "yes", "'required':true"),
                "id=start.id num=start.num pick=start.pick yes=start.yes"));
        APPS.put("needs_file", App.of(ID + "," + field("file", "doc", "'required':true," + KINDS) + ","
                + field("file-list", "docs", "'required':true,'max_length':3," + KINDS),
                "id=start.id doc=start.doc docs=start.docs"));
        APPS.put("defaults", App.of(ID + "," + field("text-input", "text", "'default':'hello'") + ","
                + field("number", "num", "'default':'7'") + ","
                + field("select", "pick", "'options':['a','b'],'default':'b'") + ","
                + field("checkbox", "yes", "'default':true"),
                "id=start.id text=start.text num=start.num pick=start.pick yes=start.yes"));
        APPS.put("bad_default", App.of(ID + "," + field("select", "pick", "'options':['a','b'],'default':''"),
                "id=start.id pick=start.pick"));
        APPS.put("jsonvar", App.of(ID + "," + field("json_object", "meta", ""), "id=start.id meta=start.meta"));
        APPS.put("custom_file", App.of(ID + "," + field("file", "doc", "'allowed_file_types':['custom'],"
                + "'allowed_file_extensions':['.xyz'],'allowed_file_upload_methods':['local_file']"),
                "id=start.id doc=start.doc"));
        APPS.put("human", App.of(ECHO, "note=ask.note", CALL, new Step.Ask("ask")));
        APPS.put("chatflow", App.of(ROW + "," + NUMBERS, "answer=call.body", CALL));
        APPS.put("asking", App.of(ROW, "answer=ask.answer", new Step.Say("first"), new Step.Ask("ask")));
        APPS.put("moderated", App.of(OPEN, "answer=call.body", CALL));
        APPS.put("partial chatflow", App.of(ROW + "," + NUMBERS, "answer=call.body", new Step.Call("call", true)));
        APPS.put("external_data_tool", App.of(ID + "," + field("external_data_tool", "ext", ""), "id=start.id"));
        APPS.put("unknown node", App.of(ID, "id=start.id", new Step.Unknown("nosuch-node")));
        APPS.put("no End node", App.of(ID, ""));
        APPS.put("a variable nobody sets", App.of(ID, "id=start.id gone=nobody.x"));
        for (var name : List.of("chat", "agent_chat", "agent_react"))
            APPS.put(name, new App(ASKED + CHOSEN, ASKED + CHOSEN + STRICT, App.graph("")));
        APPS.put("completion", new App(ASKED + TEXT + CHOSEN, ASKED + TEXT + CHOSEN + STRICT, App.graph("")));
        APPS.put("agent", App.of("{'text-input':{'label':'id','variable':'id','required':true}},"
                + "{'text-input':{'label':'tone','variable':'tone','required':false}}", ""));
    }

    /// A variable of a form, as the editor stores it, in JSON with `'` for `"`.
    private static String field(String type, String name, String more) {
        var all = new LinkedHashMap<String, Object>(Map.of("label", name, "options", List.of(), "required", false,
                "type", type, "variable", name));
        all.put("max_length", null);
        Given.tree("{" + more.replace('\'', '"') + "}").properties()
                .forEach(each -> all.put(each.getKey(), each.getValue()));
        all.computeIfPresent("json_schema", (_, schema) -> schema.toString()); // kept as text
        return JSON.valueToTree(Map.of(type, all)).toString();
    }

    /// The server that an exchange meets: the app, how the simulator is started, and which keys are accepted.
    private record Place(String app, Kind kind, Simulator.Access access, List<String> options) {
        static Place of(String app, String... options) {
            return new Place(app, Kind.WORKFLOW, Simulator.Access.OPEN, List.of(options));
        }

        private static final Place UNPUBLISHED = of("echo").with(Kind.UNPUBLISHED);
        private static final Place CHATFLOW = chatflow();
        private static final Place CHAT = of("echo").with(Kind.CHAT);
        private static final Place DISABLED = new Place("echo", Kind.WORKFLOW, Simulator.Access.DISABLED, List.of());

        /// Two of four questions contain the word that moderation looks for.
        private static Place moderated(int number, String option) {
            boolean isForbidden = number >= 3 && number < 6 || number >= 10;
            return of("moderated", isForbidden ? new String[] {option, "100%"} : new String[0]).with(Kind.CHATFLOW);
        }

        private static Place chatflow(String... options) {
            return of("chatflow", options).with(Kind.CHATFLOW);
        }

        private Place with(Kind kind) {
            return new Place(app, kind, access, options);
        }

        static Place of(List<Exchange> all, Exchange exchange) {
            int number = exchange.number();
            if (exchange.name().matches("(chat|agent|completion|llm)_.*")) return ofOther(all, exchange);
            return switch (exchange.name()) {
                case "parameters_typed", "files", "slots_errors", "refused_streaming" -> of("typed");
                case "error_open" -> of("typed", "--speed", "15");
                case "pings", "proxy_buffering" -> of("echo", "--speed", "15");
                case "run_blocking_partial", "run_streaming_partial" -> of("partial");
                case "inputs_blocking", "inputs_streaming", "inputs_more_blocking", "inputs_more_streaming" ->
                        of(exchange.about().substring(0, exchange.about().indexOf(':')));
                case "odd_graphs" -> of(exchange.about().substring(0, exchange.about().indexOf(',')));
                case "too_many_blocking", "too_many_streaming", "slots_after_kill" -> of("echo", "--limit", "2");
                case "limited_one" -> of("limited_one", "--limit", "1");
                case "keys_changed" -> of("limited_one");
                case "publish_again" -> of("twice");
                case "human" -> of("human", "--speed", "10");
                case "huge_integer" -> of("defaults", "--speed", "15");
                case "parameters_other" -> List.of(UNPUBLISHED, CHAT, DISABLED).get(number);
                case "versions_blocking", "versions_streaming" ->
                        number == 4 ? UNPUBLISHED : number == 5 ? CHAT : of("echo");
                case "keys" -> number == 4 ? DISABLED : of("echo");
                case "queue_worker_paused" -> of("echo", "--queue", "40s", "--silence", "100s", "--speed", "15");
                case "queue_client_leaves" -> of("echo", "--queue", "13s", "--speed", "10");
                case "queue_timeout" -> of("echo", "--queue", "40s", "--speed", "15");
                case "queue_worker_killed" -> exchange.version().equals("1.16.0")
                        ? of("echo", "--queue", "20s", "--speed", "15") : of("echo", "--lost", "100%");
                case "worker_killed_streaming" -> of("echo", "--speed", "15");
                case "api_killed_blocking", "api_killed_streaming" -> of("echo", "--kill", "100%");
                case "proxy_timeout" -> number < 4
                        ? of("echo", "--gateway", "100%", "--seed", seed(die -> die % 3 == 2))
                        : exchange.version().equals("1.16.0") // its proxy did not buffer
                        ? of("echo", "--drop-after", "100%", "--seed", seed(die -> die % 3 > 0 && die / 3 % 4 == 3))
                        : of("echo", "--drop-before", "100%", "--seed", seed(die -> die % 2 == 0));
                case "proxy_errors" -> of("echo", "--gateway", "100%", "--seed", seed(die -> die % 3 == 0));
                case "limits" -> limited(all, exchange);
                case "stop" -> of("echo", "--speed", "1", "--seed",
                        seed(die -> die % 5 != 0 && die % 7 != 0 && die % 200 > 150));
                case "stop_other" -> of("echo", "--seed", seed(die -> die % 5 != 0 && die % 7 != 0));
                case "chatflow_wrong_route" -> number == 0 ? CHATFLOW : of("echo");
                case "chatflow_lookups" -> number == 5 ? of("echo") : CHATFLOW;
                case "chatflow_streaming_refused", "chatflow_refused_left" -> chatflow("--speed", "15");
                case "chatflow_stop", "chatflow_stop_later" -> chatflow("--speed", "1");
                case "chatflow_api_killed_blocking" -> chatflow("--kill", "100%");
                case "chatflow_queue_client_leaves" -> chatflow("--queue", "13s", "--speed", "10");
                case "chatflow_paused_blocking", "chatflow_paused_streaming" -> of("asking").with(Kind.CHATFLOW);
                case "chatflow_moderated_in" -> moderated(number, "--preset");
                case "chatflow_moderated_out" -> moderated(number, "--replace");
                case "chatflow_partial" -> of("partial chatflow").with(Kind.CHATFLOW);
                case "moderated_workflow" -> of("moderated", "--preset", "100%", "--replace", "100%");
                default -> exchange.name().startsWith("chatflow_") ? CHATFLOW : of("echo");
            };
        }

        /// An app without a workflow. Its name is in that of the case, or in what is said of the last start.
        private static Place ofOther(List<Exchange> all, Exchange exchange) {
            var start = all.stream().filter(each -> each.number() <= exchange.number() && each.isStart())
                    .reduce((_, last) -> last).map(Exchange::about).orElse("");
            var named = Pattern.compile("with the key of (\\w+)").matcher(exchange.about());
            var app = switch (exchange.name()) {
                case "llm_wrong_route" -> named.find() ? named.group(1) : "chat";
                case "llm_silent_client" -> exchange.number() < 4 ? "chat" : exchange.number() < 11 ? "agent_chat"
                        : "agent";
                case String name when name.matches("llm_.*|agent_modes") -> start.split(",")[0];
                default -> Stream.of("agent_chat", "agent_react", "agent", "chat", "completion")
                        .filter(exchange.name()::startsWith).findFirst().orElseThrow();
            };
            return switch (app) {
                case "wf_llm" -> of("echo");
                case "cf_llm" -> CHATFLOW;
                default -> new Place(app, Kind.of(app.replace("agent_react", "agent_chat").replace('_', '-')),
                        Simulator.Access.OPEN, options(app, exchange, start));
            };
        }

        private static List<String> options(String app, Exchange exchange, String start) {
            var name = exchange.name();
            var options = new ArrayList<>(List.of("--files", "2", "--latency", "20ms"));
            if (app.equals("agent_react")) options.add("--react");
            boolean isOpening = app.equals("chat") && !name.endsWith("_moderated");
            if (isOpening) options.addAll(List.of("--opening", "Hello {{id}}!"));
            boolean isCut = exchange.toString().matches(
                    "1.9.2 (chat_streaming_limited_left\\[4]|completion_streaming_limited_left\\[5]).*");
            if (isCut) options.addAll(List.of("--truncate", "100%")); // the first answer after a client had left
            options.addAll(switch (name) {
                case String each when each.endsWith("_limited") || each.endsWith("_limited_left") ->
                        List.of("--limit", "1");
                case String each when each.endsWith("_moderated") ->
                        List.of(start.endsWith("_in") ? "--preset" : "--replace", "100%");
                case String each when each.matches(".*_(left|cut|stopped)") -> List.of("--speed", "2");
                case String each when each.matches(".*_(killed|ended|pings|ended_short)") -> List.of("--speed", "15");
                case "llm_time_limit" -> List.of("--speed", "15", "--longest", "5s");
                default -> List.<String>of();
            });
            return options;
        }

        /// Depends on the setting that was lowered, which the name of the run shows.
        private static Place limited(List<Exchange> all, Exchange exchange) {
            var setting = all.stream().filter(each -> each.number() <= exchange.number())
                    .map(Exchange::about).filter(about -> about.startsWith("{")).reduce((_, last) -> last)
                    .orElseThrow();
            return of("echo", "--speed", "10", setting.contains("APP_MAX") ? "--stopped"
                    : setting.contains("STEPS") ? "--step-limit" : "--time-limit", "100%");
        }

        /// A seed with which the first start of the row `r1` rolls such a die.
        private static String seed(IntPredicate wanted) {
            var usual = behaviour("1.14.2");
            return LongStream.iterate(1, seed -> seed + 1).filter(seed -> wanted.test(
                    usual.with(seed).fate("r1", 1, Map.of()).die())).mapToObj(String::valueOf).findFirst().orElseThrow();
        }
    }

    private static Simulator.Behaviour behaviour(String version, String... options) {
        return Started.with(version, List.of(options)).behaviour();
    }

    /// What the simulator's options say. Reading them takes longer than a short case.
    private record Started(Simulator.Behaviour behaviour, Simulator.Setup.Traits traits) {
        private static final Map<List<String>, Started> KNOWN = new ConcurrentHashMap<>();

        static Started with(String version, List<String> options) {
            var words = WholeCommand.words(List.of("--dify", version, "--speed", "4", "--silence", "30s"),
                    options.toArray(String[]::new));
            return KNOWN.computeIfAbsent(List.of(words), _ -> {
                var simulator = Simulator.of(words);
                return new Started(simulator.behaviour(), simulator.setup().traits());
            });
        }
    }

    // ── The comparison ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheSimulator {
        @Tag("slow")
        @ParameterizedTest
        @ValueSource(strings = {"1.9.2", "1.14.2", "1.16.0", "1.16.1"})
        void respondsLikeTheRecordedDifyServers(String version) throws Exception {
            var cases = Stream.of(Recorded.cases(version), Recorded.casesOfOthers(version))
                    .flatMap(each -> each.values().stream()).filter(each -> !each.isEmpty())
                    .map(Recorded::linked).toList();
            var notes = Recorded.notesOfOthers(version);
            var differing = ConcurrentHashMap.<List<Exchange>>newKeySet();

            try (var threads = Executors.newFixedThreadPool(12, Thread.ofVirtual().factory())) {
                for (var each : cases)
                    threads.submit(() -> differences(each, notes).isEmpty() || differing.add(each));
            }
            var differences = new TreeMap<String, String>();
            for (int chance = 5; chance > 0; chance--) // for a machine that stalls
                differing.removeIf(each -> differences(each, notes).isEmpty());
            for (var each : differing) differences.putAll(differences(each, notes));

            var all = cases.stream().flatMap(List::stream).toList();
            long left = all.stream().filter(ConformanceTest::isLeftOut).count();
            long noted = notes.values().stream().flatMap(List::stream).filter(Replay::isCompared).count();
            IO.println("conformance: " + version + ": " + (all.size() - left) + " compared, " + left + " left out; "
                    + noted + " notes");
            assertEquals("", differences.entrySet().stream().limit(20)
                    .map(each -> each.getKey() + "\n" + each.getValue()).collect(Collectors.joining("\n")),
                    () -> differences.size() + " differ");
            assertTrue(left * 10 <= all.size(), "at most one in ten is left out");
        }
    }

    /// A row with a value that only the server can check: our own check accepts it.
    @Nested
    class ARowThatOnlyTheServerRejects extends WholeCommand {
        @ParameterizedTest(name = "{0} {1}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version, mode,      http
                1.9.2,   blocking,  400
                1.9.2,   streaming, 400
                1.14.2,  blocking,  400
                1.14.2,  streaming, 500
                1.16.0,  blocking,  400
                """)
        void failsWithoutARetryAndReportsTheServersMessage(String version, String mode, int http) throws Exception {
            var form = Files.writeString(file("form.json"), "[" + field("text-input", "id", "'required':true") + ","
                    + field("file", "doc", KINDS) + "]");
            csv("id,doc", "1,http://127.0.0.1:9/a.txt", "2,http://127.0.0.1:80/a.txt");
            var setup = new Simulator.Setup("files", Optional.empty(), Kind.WORKFLOW,
                    address -> address.getPort() != 9);
            var dify = new Simulated(new SimulatedDify(behaviour(version, "--form", form.toString()), setup));

            call(dify.settings(), typed("run", "--mode", mode)).exits(3);

            assertEquals("succeeded=1 failed=1", status());
            var end = events("end").stream().filter(one -> !one.has("crc32c")).findFirst().orElseThrow();
            assertEquals(List.of(1, http), List.of(end.path("id").asInt(), end.path("http").asInt()));
            assertEquals("Reached maximum retries (3) for URL http://127.0.0.1:9/a.txt", end.path("error").asText());
            assertEquals(1, dify.count("started"), "runs");
        }
    }

    // ── Replaying ───────────────────────────────────────────────────────────────────────────────────────────────────

    private static Map<String, String> differences(List<Exchange> exchanges, Map<String, List<Exchange>> notes) {
        if (exchanges.stream().allMatch(ConformanceTest::isLeftOut)) return Map.of();
        try (var replay = new Replay(exchanges, notes.getOrDefault(exchanges.getFirst().name(), List.of()))) {
            return replay.differences();
        } catch (Exception | AssertionError problem) {
            return Map.of(exchanges.getFirst().toString(), "  stopped here: " + problem);
        }
    }

    /// One case: its exchanges in order, on its own servers.
    private static final class Replay implements AutoCloseable {
        private final String version;
        private final List<Exchange> exchanges, notes;
        private final Map<Place, SimulatedDify> apps = new HashMap<>();
        private final Map<Place, SimulatedServer> servers = new HashMap<>();
        private final Map<Integer, OpenRequest> inFlight = new TreeMap<>();
        private final List<OpenRequest> others = new ArrayList<>();
        private final Map<Integer, Place> places = new HashMap<>();
        /// Replaces ids in a recorded request that no recorded answer gave.
        private final Map<String, String> aliases = new HashMap<>();
        /// The users whose requests were not recorded, but sent.
        private final Set<String> asked = new HashSet<>();
        private String key = "app-MASKED";

        Replay(List<Exchange> exchanges, List<Exchange> notes) {
            this.version = exchanges.getFirst().version();
            this.exchanges = exchanges;
            this.notes = notes.stream().filter(Replay::isCompared).toList();
        }

        Map<String, String> differences() throws Exception {
            var differences = new LinkedHashMap<String, String>();
            for (int i = 0; i < exchanges.size(); i++) {
                var exchange = exchanges.get(i);
                boolean isOther = exchange.name().matches("(chat|agent|completion|llm)_.*");
                if (isOther && isLeftOut(exchange)) continue;
                for (var later : needed(exchange)) beginRun(later);
                before(exchange);
                var difference = replay(exchange);
                if (!difference.isEmpty() && !isLeftOut(exchange)) differences.put(exchange.toString(), difference);
                int next = i + 1 < exchanges.size() ? exchanges.get(i + 1).number() : Integer.MAX_VALUE;
                for (var note : notes) if (note.number() > exchange.number() && note.number() < next) {
                    var wrong = difference(note, exchange);
                    if (!wrong.isEmpty()) differences.put(note.toString(), wrong);
                }
            }
            return differences;
        }

        /// Later exchanges that started before: their ids, or their runs in the log, are referred to.
        private List<Exchange> needed(Exchange exchange) {
            var path = URLDecoder.decode(exchange.path(), UTF_8);
            return exchanges.stream().filter(each -> each.number() > exchange.number())
                    .filter(each -> !inFlight.containsKey(each.number()))
                    .filter(each -> path.contains("@" + each.number() + "/") || each.isRun() && exchange.isAsking()
                            && path.contains("session_id=" + each.user())).toList();
        }

        /// Applies what was done to the server before this exchange.
        private void before(Exchange exchange) throws Exception {
            var place = place(exchange);
            switch (exchange.name() + " " + exchange.number()) {
                case "keys_changed 1" -> app(place).become(Simulator.Access.DISABLED);
                case "keys_changed 2" -> app(place).become(Simulator.Access.OPEN);
                case "keys_changed 3" -> app(place).delete(key);
                case "keys_changed 5" -> key = "app-MASKED-too";
                case "keys_changed 6" -> app(place).become(Simulator.Access.DELETED);
                case "keys_changed 7" -> {
                    if (version.equals("1.16.0")) app(place).become(Simulator.Access.FORGOTTEN);
                }
                case "stop 0" -> { // the look-up comes before the stop has an effect
                    begin(exchange);
                    begin(numbered(1));
                }
                case "chatflow_stop 0", "chatflow_stop_later 0" -> {
                    beginRun(exchange).awaitEvents(4);
                    begin(numbered(1));
                }
                case "worker_ended_streaming 1" -> {
                    begin(exchange).awaitEvents(5);
                    app(place).endWorker();
                }
                case "worker_killed_streaming 1" -> {
                    begin(exchange).awaitEvents(5);
                    app(place).killWorker();
                }
                case "keys_changed 8", "keys 1", "keys 5" -> key = "nosuch";
                case "keys 4" -> key = "app-MASKED";
                case "too_many_blocking 0", "too_many_streaming 0" -> {
                    var mode = exchange.name().substring("too_many_".length());
                    other(place, mode, 3000, "x");
                    other(place, mode, 3000, "x");
                }
                case "too_many_blocking 1", "too_many_streaming 1" -> {
                    for (var other : others) other.awaitEnd();
                }
                case "limited_one 2" -> other(place, "blocking", 8000, "x");
                case "slots_after_kill 1" -> {
                    other(place, "blocking", 3000, "[kill!]");
                    other(place, "blocking", 3000, "[kill!]");
                }
                case "versions_blocking 0", "versions_streaming 0" ->
                        aliases.put(id(exchange), app(place).published());
                case "publish_again 2" -> {
                    begin(exchange).awaitEvents(2);
                    var again = APPS.get("published again");
                    app(place).publish(again.fields(version), Optional.of(again.graph()));
                }
                case "publish_again 7", "publish_again 8" -> aliases.put(id(exchange), app(place).draft());
                case "chat_conversations 0" -> {
                    for (int i = 0; i < 4; i++) ask(exchange, "q" + i, exchange.user()).awaitEnd();
                    ask(exchange, "other", user(numbered(8))).awaitEnd();
                }
                case "chat_same_user 0" -> {
                    for (int number : List.of(0, 1, 2)) begin(numbered(number));
                }
                default -> {}
            }
            if (exchange.name().matches("(chat|agent|completion|llm)_.*")) beforeOther(exchange);
        }

        private void beforeOther(Exchange exchange) throws Exception {
            int number = exchange.number();
            boolean isLookUp = exchange.isAsking() && exchange.path().contains("user=");
            switch (exchange.name()) {
                case String name when name.matches(".*_streaming_stopped(_other)?") && number == 0 -> {
                    beginRun(exchange).awaitEvents(name.startsWith("agent_streaming") ? 4 : 6);
                    begin(numbered(1)).awaitEnd();
                }
                case String name when name.matches(".*_(killed|ended)") && number == 1 -> {
                    var row = beginRun(exchange);
                    if (exchange.isStream()) row.awaitEvents(exchange.shapes().size());
                    for (var each : exchanges) if (each.about().startsWith("just before")) begin(each).awaitEnd();
                    app(place(exchange)).killApi();
                }
                case String name when name.endsWith("_limited") && number == 0 -> {
                    beginRun(exchange);
                    for (int other : List.of(1, 2)) begin(numbered(other)).awaitEnd();
                }
                case String name when name.endsWith("_dies_at_once") && isLookUp && asked.add(user(exchange)) ->
                        ask(exchange, question(exchange), user(exchange)).close();
                case String name when name.equals("llm_silent_client") && isLookUp && asked.add(user(exchange)) ->
                        others.add(ask(exchange, question(exchange), user(exchange)));
                default -> {}
            }
            boolean isLast = exchanges.getLast() == exchange || exchange.name().endsWith("_dies_at_once");
            if (isLookUp && isLast && exchange.name().matches(".*_(left|left_long|cut|dies_at_once)"))
                until("the end of all rows", () -> app(place(exchange)).ledger().all()
                        .allMatch(job -> job.stored.isDone()));
            if (exchange.path().matches("/v1/messages\\?.*conversation_id=[0-9a-f].*")
                    || exchange.request().at("/body/conversation_id").asText().matches("[1-9a-f][0-9a-f]{7}-.*"))
                alias(exchange);
        }

        /// The simulator's first conversation of this user for one that the recording does not tell.
        private void alias(Exchange exchange) throws Exception {
            var list = OpenRequest.open(server(place(exchange)), request("GET", "/v1/conversations?sort_by=created_at"
                    + "&user=" + user(exchange), Map.of("Authorization", "Bearer app-x"), new byte[0]));
            list.awaitEnd();
            var id = Recorded.tree(list.type(), list.text()).at("/data/0/id").asText();
            if (!id.isEmpty()) aliases.put(exchange.method().equals("GET") ? id(exchange)
                    : exchange.request().at("/body/conversation_id").asText(), id);
            list.close();
        }

        private static String user(Exchange exchange) {
            var asked = Pattern.compile("[?&]user=([^&]+)").matcher(exchange.path());
            return asked.find() ? asked.group(1) : exchange.user();
        }

        /// The question of this user, which only the message shows.
        private String question(Exchange exchange) {
            return exchanges.stream().filter(each -> each.path().startsWith("/v1/messages")
                    && user(each).equals(user(exchange))).map(each -> Given.tree(each.text()).at("/data/0/query")
                    .asText()).findFirst().orElseThrow();
        }

        /// Asks a question that was not recorded. Returns when the row has begun.
        private OpenRequest ask(Exchange exchange, String question, String user) throws Exception {
            var place = place(exchange);
            boolean isBlocking = exchange.name().matches(".*_(blocking_.*|conversations)");
            var body = JSON.writeValueAsBytes(Map.of("inputs", Map.of("id", "r1"), "query", question, "user", user,
                    "auto_generate_name", false, "response_mode", isBlocking ? "blocking" : "streaming"));
            int before = app(place).count("started");
            var asked = OpenRequest.open(server(place), request("POST", "/v1/chat-messages", Map.of("Authorization",
                    "Bearer app-x", "Content-Type", "application/json"), body));
            until("a row to begin", () -> app(place).count("started") > before);
            return asked;
        }

        // What was written down beside the exchanges

        /// What the model saw of a row whose process was killed is chance, as is that of a stopped agent.
        private static boolean isCompared(Exchange note) {
            return note.about().endsWith("the message in the database") && !note.name().equals("llm_still")
                    || note.about().equals("what the model saw") && !note.name().matches(
                            ".*_(killed|ended)|agent_streaming_stopped|.*_dies_at_once");
        }

        private String difference(Exchange note, Exchange exchange) {
            if (isLeftOut(exchange)) return "";
            var start = exchanges.stream().filter(each -> each.number() <= exchange.number() && each.isStart())
                    .reduce((_, last) -> last).orElse(exchange);
            var user = start.isStart() ? start.user() : user(exchange);
            var jobs = app(place(exchange)).ledger().all().filter(job -> job.user.equals(user)).toList();
            var expected = note.response().has("rows") ? message(note.response().at("/rows/0"))
                    : note.response().valueStream().map(JsonNode::asText).toList().toString();
            Supplier<String> actual = () -> note.response().has("rows") ? message(jobs.getLast())
                    : List.of("" + jobs.stream().mapToInt(job -> job.talk.orElseThrow().asked()).sum(),
                            "" + jobs.stream().mapToInt(job -> job.talk.orElseThrow().answered(job.status())).sum())
                            .toString();
            long deadline = System.nanoTime() + PATIENCE.toNanos() / 2;
            while (!actual.get().equals(expected) && System.nanoTime() < deadline) LockSupport.parkNanos(5_000_000);
            return actual.get().equals(expected) ? "" : "  expected " + expected + "\n  but was  " + actual.get();
        }

        private String message(JsonNode row) {
            return message(row.path("status").asText(), row.path("answer").asText(), row.path("error").asText(),
                    row.path("latency").asDouble(), row.path("message_tokens").asInt());
        }

        private String message(SimulatedJob job) {
            var row = job.message();
            return message((String) row.get("status"), (String) row.get("answer"), "" + row.get("error"),
                    Double.parseDouble(Objects.toString(row.get("provider_response_latency"), "0")),
                    Integer.parseInt(Objects.toString(row.get("message_tokens"), "0")));
        }

        /// The API of 1.9.2 shows neither times nor tokens.
        private String message(String status, String answer, String error, double seconds, int tokens) {
            var shown = List.of(status, !answer.isEmpty(), error.replace("null", ""));
            return version.equals("1.9.2") ? shown.toString() : shown + " " + (seconds > 0) + " " + (tokens > 0);
        }

        private Exchange numbered(int number) {
            return exchanges.stream().filter(each -> each.number() == number).findFirst().orElseThrow();
        }

        private static String id(Exchange exchange) {
            return Pattern.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").matcher(exchange.path()).results()
                    .map(MatchResult::group).findFirst().orElseThrow();
        }

        /// Starts a run that was not recorded. Returns when it has started.
        private void other(Place place, String mode, int delay, String text) throws Exception {
            var body = JSON.writeValueAsBytes(Map.of("inputs", Map.of("id", "r1", "body_text", text, "delay_ms", delay),
                    "response_mode", mode, "user", "other"));
            int before = app(place).count("started");
            others.add(OpenRequest.open(server(place), request("POST", "/v1/workflows/run", Map.of("Authorization",
                    "Bearer app-x", "Content-Type", "application/json"), body)));
            until("a run to start", () -> app(place).count("started") > before);
        }

        // Asking

        private String replay(Exchange exchange) throws Exception {
            var deadline = System.nanoTime() + (isLeftOut(exchange) ? 0 : Duration.ofSeconds(4).toNanos());
            while (true) {
                var wire = exchange.isStart() && exchange.status() == 0 ? beginRun(exchange) : begin(exchange);
                var difference = difference(exchange, wire);
                boolean isRepeated = exchange.isAsking() && !exchange.name().equals("detail_at_finish")
                        || exchange.name().endsWith("_limited_left") && exchange.status() == 200;
                if (difference.isEmpty() || !isRepeated || System.nanoTime() > deadline) return difference;
                inFlight.remove(exchange.number()).close();
                LockSupport.parkNanos(10_000_000);
            }
        }

        private OpenRequest begin(Exchange exchange) throws Exception {
            if (inFlight.containsKey(exchange.number())) return inFlight.get(exchange.number());
            var place = place(exchange);
            boolean goesOn = exchange.name().equals("http_details") && !exchange.raw().matches("(?s)[A-Z]+ .*");
            var wire = goesOn ? inFlight.get(exchange.number() - 1).send(bytes(exchange))
                    : OpenRequest.open(server(place), bytes(exchange));
            inFlight.put(exchange.number(), wire);
            return wire;
        }

        /// Returns when the server has accepted the run.
        private OpenRequest beginRun(Exchange exchange) throws Exception {
            if (inFlight.containsKey(exchange.number())) return inFlight.get(exchange.number());
            var place = place(exchange);
            int before = app(place).count("started");
            var wire = begin(exchange);
            if (!place.options().contains("--lost"))
                until("the run of " + exchange, () -> app(place).count("started") > before);
            return wire;
        }

        private byte[] bytes(Exchange exchange) throws Exception {
            if (!exchange.raw().isEmpty()) return whole(exchange.raw()).getBytes(UTF_8);
            var headers = new LinkedHashMap<String, String>();
            exchange.request().path("headers").properties().forEach(each -> headers.put(each.getKey(),
                    each.getValue().asText().replace("app-MASKED", key)));
            return request(exchange.method(), resolved(exchange.path()), headers, body(exchange));
        }

        private static byte[] request(String method, String path, Map<String, String> headers, byte[] body) {
            var head = new StringBuilder(method + " " + path + " HTTP/1.1\r\nHost: x\r\n");
            headers.forEach((name, value) -> head.append(name).append(": ").append(value).append("\r\n"));
            head.append("Content-Length: ").append(body.length).append("\r\n\r\n");
            var all = new ByteArrayOutputStream();
            all.writeBytes(head.toString().getBytes(ISO_8859_1));
            all.writeBytes(body);
            return all.toByteArray();
        }

        /// Adds the end of a long body, which the recorder left out.
        private static String whole(String raw) {
            var length = Pattern.compile("Content-Length: (\\d+)").matcher(raw);
            int body = raw.indexOf("\r\n\r\n") + 4;
            if (!length.find() || body == raw.length()) return raw;
            var rest = "\"}, \"user\": \"u\", \"response_mode\": \"blocking\"}";
            int missing = Integer.parseInt(length.group(1)) - raw.substring(body).getBytes(UTF_8).length;
            return missing < rest.length() ? raw : raw + "x".repeat(missing - rest.length()) + rest;
        }

        private byte[] body(Exchange exchange) throws Exception {
            var body = exchange.request().path("body");
            if (body.isMissingNode() || body.isNull()) return new byte[0];
            if (!body.isTextual()) return resolved(body.toString()).getBytes(UTF_8);
            var big = Pattern.compile("body_text of (\\d+) MiB").matcher(body.asText());
            if (big.matches()) return JSON.writeValueAsBytes(Map.of("inputs", Map.of("id", "r1", "body_text",
                    "x".repeat(Integer.parseInt(big.group(1)) << 20)), "user", "big", "response_mode", "blocking"));
            var bytes = Pattern.compile("(\\d+) bytes").matcher(body.asText());
            if (!bytes.matches()) return body.asText().getBytes(UTF_8);
            boolean picture = exchange.about().contains("picture");
            var head = "------b0\r\nContent-Disposition: form-data; name=\"file\"; filename="
                    + (picture ? "\"a.png\"\r\nContent-Type: image/png" : "\"a.txt\"\r\nContent-Type: text/plain");
            return (head + "\r\n\r\n" + "x".repeat(Integer.parseInt(bytes.group(1))) + "\r\n------b0--\r\n")
                    .getBytes(UTF_8);
        }

        /// Replaces the recorded ids by those of this server.
        private String resolved(String text) throws Exception {
            for (var alias : aliases.entrySet()) text = text.replace(alias.getKey(), alias.getValue());
            var match = Pattern.compile("@(\\d+)(/[^@]*)@").matcher(text);
            var resolved = new StringBuilder();
            while (match.find()) match.appendReplacement(resolved, Matcher.quoteReplacement(
                    inFlight.get(Integer.parseInt(match.group(1))).awaitValue(match.group(2))));
            return match.appendTail(resolved).toString();
        }

        // Comparing

        private String difference(Exchange exchange, OpenRequest wire) throws Exception {
            if (exchange.status() == 0) {
                boolean isBroken = exchange.name().matches("(chatflow_)?api_.*|.*_(killed|ended)");
                if (!isBroken) wire.close(); // the client disconnected
                wire.awaitEnd();
                return wire.status() == 0 ? "" : "answered with " + wire.status();
            }
            boolean left = exchange.end() == Recorded.End.CLIENT;
            boolean isOther = place(exchange).kind().isPlain();
            var recorded = exchange.shapes();
            if (exchange.isTail()) wire.awaitLast();
            else if (left) wire.awaitEvents(recorded.size());
            else wire.awaitEnd();
            var shapes = wire.shapes();
            var end = !exchange.isStream() || left ? exchange.end()
                    : wire.isWhole() ? Recorded.End.SERVER : Recorded.End.CUT;
            if (left) wire.close();
            var expected = List.of(exchange.status(), exchange.type(), exchange.isOurs(), exchange.end());
            var actual = List.of(wire.status(), wire.type(), wire.header("x-version").isPresent(), end);
            if (!expected.equals(actual)) return "  expected " + expected + "\n  but was  " + actual + " " + shapes;
            if (isOther) return firstDifference(Recorded.Shape.condensed(recorded), Recorded.Shape.condensed(shapes));
            return firstDifference(recorded, !exchange.isTail() ? shapes
                    : shapes.subList(Math.max(0, shapes.size() - 1), shapes.size()));
        }

        private static String firstDifference(List<String> expected, List<String> actual) {
            for (int i = 0; i < Math.max(expected.size(), actual.size()); i++) {
                var one = i < expected.size() ? expected.get(i) : "nothing";
                var other = i < actual.size() ? actual.get(i) : "nothing";
                int at = Arrays.mismatch(one.toCharArray(), other.toCharArray());
                if (at >= 0) return "  no. " + i + " expected " + around(one, at) + "\n  but was        "
                        + around(other, at);
            }
            return "";
        }

        private static String around(String shape, int at) {
            return "…" + shape.substring(Math.max(0, at - 60), Math.min(shape.length(), at + 100));
        }

        // Servers

        private Place place(Exchange exchange) {
            return places.computeIfAbsent(exchange.number(), _ -> Place.of(exchanges, exchange));
        }

        private SimulatedDify app(Place place) {
            var app = apps.get(place);
            if (app == null) {
                var kind = APPS.get(place.app());
                var started = Started.with(version, place.options());
                var usual = started.traits();
                var traits = !place.app().equals("echo") ? usual : new Simulator.Setup.Traits(Optional.empty(), 0,
                        false, true, usual.longest()); // the recorded chat app beside it was never set up
                app = new SimulatedDify(started.behaviour(), new Simulator.Setup(place.app(),
                        Optional.of(kind.graph()), place.kind(), Replay::answers, traits));
                app.publish(kind.fields(version), Optional.of(kind.graph()));
                app.become(place.access());
                apps.put(place, app);
            }
            return app;
        }

        /// Whether the recorded address of a file answered.
        private static boolean answers(URI address) {
            return !address.toString().contains("status=500") && address.getPort() != 9;
        }

        private int server(Place place) throws IOException {
            if (!servers.containsKey(place)) servers.put(place, SimulatedServer.start(0, 0, app(place)));
            return servers.get(place).baseUrl().getPort();
        }

        @Override
        public void close() throws IOException {
            for (var wire : inFlight.values()) wire.close();
            for (var wire : others) wire.close();
            for (var server : servers.values()) server.close();
        }
    }

    private static void until(String what, BooleanSupplier done) {
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (!done.getAsBoolean()) {
            if (System.nanoTime() > deadline) throw new AssertionError("waited in vain for " + what);
            LockSupport.parkNanos(1_000_000);
        }
    }

    // ── The wire ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// One request, byte for byte, and the answer so far, which a separate thread reads.
    private static final class OpenRequest implements AutoCloseable {
        private final Socket socket;
        private final InputStream in;
        private final Map<String, String> headers = new ConcurrentHashMap<>();
        private final ByteArrayOutputStream body = new ByteArrayOutputStream();
        private volatile CountDownLatch end = new CountDownLatch(1);
        private volatile int status;
        private volatile boolean whole;

        private OpenRequest(Socket socket) throws IOException {
            this.socket = socket;
            this.in = new BufferedInputStream(socket.getInputStream());
        }

        static OpenRequest open(int port, byte[] request) throws IOException {
            return new OpenRequest(new Socket(InetAddress.getLoopbackAddress(), port)).send(request);
        }

        OpenRequest send(byte[] request) throws IOException {
            end = new CountDownLatch(1);
            socket.getOutputStream().write(request);
            boolean head = new String(request, 0, Math.min(5, request.length), ISO_8859_1).equals("HEAD ");
            Thread.startVirtualThread(() -> read(head));
            return this;
        }

        private void read(boolean head) {
            try {
                var first = SimulatedExchange.line(in);
                if (first.length() < 12) return;
                for (var line = SimulatedExchange.line(in); !line.isEmpty(); line = SimulatedExchange.line(in)) {
                    var pair = line.split(":", 2);
                    headers.put(pair[0].toLowerCase(Locale.ROOT), pair[1].strip());
                }
                status = Integer.parseInt(first.substring(9, 12));
                if (header("transfer-encoding").isPresent()) chunks();
                else if (!head) take(Integer.parseInt(header("content-length").orElse("0")));
                whole = true;
            } catch (IOException | NumberFormatException _) {
                // a cut: what arrived counts
            } finally {
                end.countDown();
                synchronized (body) {
                    body.notifyAll();
                }
            }
        }

        private void chunks() throws IOException {
            int size;
            do {
                size = Integer.parseInt(SimulatedExchange.line(in), 16);
                take(size);
                SimulatedExchange.line(in);
            } while (size > 0);
        }

        private void take(int size) throws IOException {
            var bytes = in.readNBytes(size);
            synchronized (body) {
                body.writeBytes(bytes);
                body.notifyAll();
            }
            if (bytes.length < size) throw new EOFException();
        }

        int status() {
            return status;
        }

        boolean isWhole() {
            return whole;
        }

        Optional<String> header(String name) {
            return Optional.ofNullable(headers.get(name));
        }

        String type() {
            return header("content-type").orElse("");
        }

        private String text() {
            synchronized (body) {
                return body.toString(UTF_8);
            }
        }

        List<String> shapes() {
            return Recorded.Shape.of(type(), text());
        }

        void awaitEnd() throws InterruptedException {
            if (!end.await(PATIENCE.toMillis(), TimeUnit.MILLISECONDS))
                throw new AssertionError("no end of " + shapes());
        }

        /// Checks the condition whenever something has arrived.
        private void await(String what, BooleanSupplier done) throws InterruptedException {
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            synchronized (body) {
                while (!done.getAsBoolean()) {
                    long left = Duration.ofNanos(deadline - System.nanoTime()).toMillis();
                    if (left <= 0) throw new AssertionError("waited in vain for " + what);
                    body.wait(left);
                }
            }
        }

        /// Waits for this many events, including pings, or for an earlier end.
        void awaitEvents(int count) throws InterruptedException {
            await(count + " events", () -> end.getCount() == 0
                    || type().startsWith("text/event-stream") && text().split("\n\n", -1).length > count);
        }

        /// The last event of a run, or of a refusal.
        void awaitLast() throws InterruptedException {
            await("the last event", () -> end.getCount() == 0 || shapes().stream()
                    .anyMatch(shape -> shape.matches(".*event:\"(workflow_finished|error)\".*")));
        }

        /// Returns the value at a place of the answer as soon as it is there.
        String awaitValue(String pointer) throws InterruptedException {
            await("a value at " + pointer, () -> status != 0
                    && (end.getCount() == 0 || type().startsWith("text/event-stream"))
                    && !Recorded.tree(type(), text()).at(pointer).isMissingNode());
            return Recorded.tree(type(), text()).at(pointer).asText();
        }

        @Override
        public void close() throws IOException {
            socket.close();
        }
    }
}
