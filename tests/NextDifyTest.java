package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// What public branches of Dify show of versions after 1.16.1: keys of a workspace, runs that move to another worker,
/// forms with a second version. Every rule must hold for servers with and without it.
class NextDifyTest {

    // ── Workspace keys ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AWorkspaceKey extends WholeCommand {
        private static final String FORM = """
                [{"text-input":{"variable":"id","label":"id"}},{"text-input":{"variable":"text","label":"text"}},
                 {"file":{"variable":"doc","label":"doc","required":false,"allowed_file_types":["document"],
                          "allowed_file_upload_methods":["local_file"]}}]""";

        private SimulatedDify first, second;
        private SimulatedServer server;

        private void serve(String... options) throws IOException {
            var words = Stream.concat(Stream.of(options), Stream.of("--latency", "10ms", "--form",
                    Files.writeString(file("form.json"), FORM).toString())).toArray(String[]::new);
            first = SimulatedDify.of(words);
            second = SimulatedDify.of(words);
            server = new Simulated(first).server;
            server.addWorkspace(Simulator.WORKSPACE_KEY, Map.of(Simulator.FIRST_APP, first,
                    Simulator.SECOND_APP, second));
        }

        private Map<String, String> settings(String... more) {
            var settings = settingsFor(server.baseUrl(), more);
            settings.put("DIFY_API_KEY", Simulator.WORKSPACE_KEY);
            return settings;
        }

        private static int started(SimulatedDify app) {
            return Simulated.count(app, "started");
        }

        @Override
        void keyIsNowhere(Call call) throws IOException {
            isNowhere(Simulator.WORKSPACE_KEY, call);
        }

        @ParameterizedTest
        @CsvSource({"blocking, workflow", "streaming, workflow", "blocking, chatflow", "streaming, chatflow"})
        void runsRetriesVerifiesAndUploadsInTheAppThatIsNamed(String mode, String app) throws IOException {
            serve("--app", app);
            boolean isChat = app.equals("chatflow");
            Files.writeString(file("a.txt"), "a document");
            csv(isChat ? "id,text,doc,query" : "id,text,doc", isChat ? "1,a,@a.txt,q" : "1,a,@a.txt",
                    isChat ? "2,[fail],,[fail]" : "2,[fail],", isChat ? "3,c,,q" : "3,c,");
            var settings = settings("DIFY_APP_ID", Simulator.SECOND_APP);

            var ran = call(settings, typed("run", "--mode", mode));
            var checked = call(settings, "check", "-i", input(), "--show", "1");
            var retried = call(settings, typed("retry", "--mode", mode, "--max-failures", "off"));
            var verified = call(settings, "verify", "-o", output());

            assertEquals(List.of(3, 0, 0, 0), Stream.of(ran, checked, retried, verified).map(Call::code).toList(),
                    () -> ran.err() + checked.err() + retried.err() + verified.err());
            if (!isChat) {
                var pulled = call(settings, "pull", "-o", file("pulled.jsonl").toString(), "--own").exits(0);
                assertFalse(read("pulled.jsonl").isEmpty(), pulled.err());
                assertEquals(2, call(settings(), "pull", "-o", file("more.jsonl").toString()).code());
            }
            checked.shows("'X-Dify-App-ID: " + Simulator.SECOND_APP + "'");
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(List.of(0, 4), List.of(started(first), started(second)));
            assertEquals(Set.of(Simulator.SECOND_APP), events("session").stream()
                    .map(session -> session.path("app_id").asText()).collect(Collectors.toSet()));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                command, id,                                   code
                run,     -,                                    2
                run,     11111111-1111-4111-8111-111111111111, 2
                check,   -,                                    2
                check,   11111111-1111-4111-8111-111111111111, 2
                """)
        void aWorkspaceKeyWithoutAnAppStartsNoRun(String command, String id, int code) throws IOException {
            serve();
            rows(3);
            var settings = id == null ? settings() : settings("DIFY_APP_ID", id);

            var call = command.equals("run") ? call(settings, typed("run")) : call(settings, "check", "-i", input());

            call.exits(code).reports("DIFY_APP_ID").hints();
            assertEquals(List.of(0, 0), List.of(started(first), started(second)));
        }

        /// The app is taken from the key while rows run, so this is no longer a setting that nothing was sent with.
        @Test
        void aWorkspaceKeyWhoseAppIsLostStopsTheBatch() throws IOException {
            serve();
            rows(30);
            var settings = settings("DIFY_APP_ID", Simulator.FIRST_APP);
            assertEquals(0, call(settings, typed("run", "--limit", "1")).code());
            var lost = new AtomicBoolean();
            first.onStart(() -> {
                if (lost.compareAndSet(false, true)) first.bind(Simulator.WORKSPACE_KEY, Set.of(Simulator.SECOND_APP));
            });

            call(settings, typed("run", "-c", "1", "--mode", "blocking")).exits(4).reports("DIFY_APP_ID").hints();
            assertEquals(2, started(first));
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void continuesABatchOnlyInItsApp(String mode) throws IOException {
            serve();
            rows(4);
            assertEquals(0, call(settings("DIFY_APP_ID", Simulator.FIRST_APP), typed("run", "--limit", "2", "--mode",
                    mode)).code());

            var other = call(settings("DIFY_APP_ID", Simulator.SECOND_APP), typed("run", "--mode", mode));
            var verified = call(settings(), "verify", "-o", output(), "--app-id", Simulator.SECOND_APP);

            assertEquals(List.of(2, 2), List.of(other.code(), verified.code()), other.err() + verified.err());
            other.reports("DIFY_APP_ID").hints();
            assertEquals(List.of(2, 0), List.of(started(first), started(second)));
            assertEquals(0, call(settings(), typed("run", "--mode", mode, "--app-id", Simulator.FIRST_APP)).code());
            assertEquals(4, started(first));
        }

        @Test
        void ofAnotherWorkspaceIsMaskedInTheServersText() throws IOException {
            var dify = dify();
            var foreign = "sk-7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2910";
            rows(1);
            dify.info(dify.refused(401, "unauthorized", "The token " + foreign + " is invalid"));

            var call = call(dify.settings(), typed("run")).exits(4).reports("sk-***");
            assertFalse(call.err().contains("7f6e5d4c"), call.err());
        }

        @Test
        void anAppKeySendsNoHeaderForTheApp() throws IOException {
            var dify = dify();
            rows(1);

            assertEquals(0, call(dify.settings("DIFY_APP_ID", " "), typed("run")).code());

            assertTrue(dify.server.getAllServeEvents().stream()
                    .noneMatch(event -> event.getRequest().containsHeader("X-Dify-App-ID")));
        }
    }

    // ── Runs that move ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ARunThatMoves extends WholeCommand {
        /// With half a second of work before and after a move of four: longer than TIMEOUT. The message of a blocking
        /// chatflow does not name its run, so nothing shows that it moves.
        @ParameterizedTest
        @CsvSource({"blocking, workflow", "streaming, workflow", "streaming, chatflow"})
        void theTimeOfARunThatMovesExcludesTheMove(String mode, String app) throws IOException {
            var dify = new Simulated("--dify", "1.19.0", "--app", app, "--latency", "1s");
            var kept = app.equals("chatflow") ? "id,query" : "id,text";
            csv(kept, "1,[move 4s]", "2,[move 4s]", "3,short");

            call(dify.settings(), typed("run", "--mode", mode, "--timeout", "3s", "-c", "3")).exits(0);
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(List.of(3, 0, 0), Stream.of("started", "twice", "stops").map(dify::count).toList());
        }
    }

    // ── Forms ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AFormOfARun extends WholeCommand {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version, app,      mode,      node
                1.14.2,  workflow, blocking,  ask
                1.14.2,  chatflow, streaming, ask
                1.16.1,  workflow, streaming, ask
                1.19.0,  workflow, blocking,  Approve refund
                1.19.0,  workflow, streaming, Approve refund
                1.19.0,  chatflow, blocking,  Approve refund
                1.19.0,  chatflow, streaming, Approve refund
                """)
        void isShownByItsNodeAndExpiryAndItsTokenOnlyInLogAndRow(String version, String app, String mode, String node)
                throws IOException {
            var settings = new Simulated("--dify", version, "--app", app, "--latency", "10ms").settings();
            csv(app.equals("chatflow") ? "id,query" : "id,text", "1,[pause]", "2,[pause]", "3,fine");

            var ran = call(settings, typed("run", "--mode", mode)).exits(3);
            assertEquals("succeeded=1 paused=2", status());
            var forms = events("form");
            assertEquals(List.of("1", "2"), forms.stream().map(form -> form.path("id").asText()).sorted().toList());
            var form = forms.stream().filter(one -> one.path("id").asText().equals("1")).findFirst().orElseThrow();
            assertEquals(node, form.path("node").asText());
            var until = Times.local(Instant.parse(form.path("until").asText()));
            var paused = events("end").stream().filter(end -> end.path("id").asText().equals("1")).toList().getFirst();
            assertEquals(paused.path("run").asText(), form.path("run").asText());
            assertFalse(form.path("token").asText().isEmpty(), form::toString);

            var report = file("report.html");
            var status = call(Map.of(), "status", "-o", output(), "--html", report.toString());
            var json = call(Map.of(), "status", "-o", output(), "--json");
            var first = forms.stream().map(one -> one.path("until").asText()).min(Comparator.naturalOrder()).orElseThrow();
            for (var text : List.of(status.out(), json.out(), Files.readString(report)))
                assertTrue(text.contains(node + ", until " + Times.local(Instant.parse(first))), text);
            assertTrue(Files.readString(report).contains(node + ", until " + until), "each row has its own");
            for (var one : forms)
                for (var text : List.of(ran.out(), ran.err(), status.out(), json.out(), Files.readString(report),
                        content("results.jsonl.retry"), content("results.jsonl")))
                    assertFalse(text.contains(one.path("token").asText()), text);
            var shown = show("1");
            for (var fact : List.of(node, until, form.path("token").asText())) assertTrue(shown.contains(fact), shown);
        }

        private String show(String id) throws IOException {
            var out = new StringWriter();
            var outer = commandLine(Given.env(Map.of())).setOut(new PrintWriter(out, true));
            outer.parseArgs("shell", "-i", input(), "-o", output());
            Shell shell = outer.getSubcommands().get("shell").getCommand();
            assertEquals(0, shell.session().execute("show " + id));
            return out.toString();
        }

        /// The record that a later look-up finds has nothing of the form.
        @Test
        void isStillKnownWhenALaterStartFindsTheRunPaused() throws IOException {
            var dify = dify();
            rows(1);
            var answer = "{'task_id':'task-1','workflow_run_id':'run-1','data':{'id':'run-1','workflow_id':'w',"
                    + "'status':'paused','outputs':{},'total_steps':3,'reasons':[{'TYPE':'human_input_required',"
                    + "'form_id':'f','node_title':'Approve %s','form_token':'secret-1','expiration_time':1795537934},"
                    + "{'TYPE':'human_input_required','form_id':'g','node_title':'Sign','form_token':null,"
                    + "'expiration_time':null}]}}";
            dify.row("1", dify.answer(200, text(answer, "refund")));
            dify.recorded("1", "paused");

            assertEquals(3, dify.run().code());
            assertEquals(3, dify.run().code());

            assertEquals(1, dify.runs());
            assertEquals(2, events("end").size());
            var status = call(Map.of(), "status", "-o", output()).out();
            assertTrue(status.contains("Approve refund: Sign, until " + Times.local(Instant.ofEpochSecond(1795537934))),
                    status);
            assertFalse(status.contains("secret-1"), status);
            var shown = show("1");
            assertTrue(shown.contains("token secret-1"), shown);
            assertEquals(1, shown.split("token", -1).length - 1, "the other form has none");
        }
    }

    // ── Streams ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AStreamOfALaterVersion extends WholeCommand {
        /// With `id:` lines, comments, `reasoning_chunk` and events that nobody knows.
        @ParameterizedTest
        @ValueSource(strings = {"workflow", "chatflow"})
        void givesTheSameResults(String app) throws IOException {
            var all = new ArrayList<List<String>>();
            for (var version : List.of("1.16.1", "1.19.0")) {
                var settings = new Simulated("--dify", version, "--app", app, "--latency", "20ms").settings();
                csv(app.equals("chatflow") ? "id,query" : "id,text", "1,a", "2,[drop-after]", "3,[fail]", "4,[partial]");
                call(settings, typed("run", "--mode", "streaming", "--fresh")).exits(3);
                all.add(results().stream().map(line -> line.path("id") + " " + line.path("outputs") + " "
                        + line.path("workflow_status") + " " + line.path("total_tokens") + " " + line.path("total_price"))
                        .sorted().toList());
            }
            assertEquals(3, all.getFirst().size());
            assertEquals(all.getFirst(), all.getLast());
        }
    }
}
