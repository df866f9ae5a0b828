package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static org.junit.jupiter.api.Assertions.*;

/// What public branches of Dify show of versions after 1.16.1: keys of a workspace, runs that move to another worker,
/// forms with a second version. Every rule must hold for servers with and without it.
class NextDifyTest {

    // ── Workspace keys ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AWorkspaceApiKey extends WholeCommand {
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

        @Override
        void keyIsNowhere(Call call) throws IOException {
            isNowhere(Simulator.WORKSPACE_KEY, call);
        }

        @ParameterizedTest
        @CsvSource({"blocking, workflow", "streaming, workflow", "blocking, chatflow", "streaming, chatflow"})
        void isUsedWithTheGivenAppIdByEveryCommand(String mode, String app) throws IOException {
            serve("--app", app);
            Files.writeString(file("a.txt"), "a document");
            csv("id,text,doc,query", "1,a,@a.txt,q", "2,[fail],,[fail]", "3,c,,q");
            var settings = settings("DIFY_APP_ID", Simulator.SECOND_APP);

            call(settings, typed("run", "--mode", mode)).exits(3);
            call(settings, "check", "-i", input(), "--show", "1").exits(0)
                    .shows("'X-Dify-App-ID: " + Simulator.SECOND_APP + "'");
            call(settings, typed("retry", "--mode", mode, "--max-failures", "off")).exits(0);
            call(settings, "verify", "-o", output()).exits(0);
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(List.of(0, 4), List.of(first.count("started"), second.count("started")));
            assertEquals(Set.of(Simulator.SECOND_APP), events("session").stream()
                    .map(session -> session.path("app_id").asText()).collect(Collectors.toSet()));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "11111111-1111-4111-8111-111111111111"})
        void isRejectedWithAMissingOrForeignAppIdBeforeAnyRun(String id) throws IOException {
            serve();
            rows(3);
            var settings = settings("DIFY_APP_ID", id);

            call(settings, typed("run")).exits(2).reports("DIFY_APP_ID").hints();
            call(settings, "check", "-i", input()).exits(2).reports("DIFY_APP_ID").hints();
            assertEquals(List.of(0, 0), List.of(first.count("started"), second.count("started")));
        }

        /// The app is taken from the key while rows run, so this is no longer a setting that nothing was sent with.
        @Test
        void stopsTheBatchWhenItLosesAccessToTheApp() throws IOException {
            serve();
            rows(30);
            var settings = settings("DIFY_APP_ID", Simulator.FIRST_APP);
            call(settings, typed("run", "--limit", "1")).exits(0);
            var lost = new AtomicBoolean();
            first.onStart(() -> {
                if (lost.compareAndSet(false, true)) first.bind(Simulator.WORKSPACE_KEY, Set.of(Simulator.SECOND_APP));
            });

            call(settings, typed("run", "-c", "1", "--mode", "blocking")).exits(4).reports("DIFY_APP_ID").hints();
            assertEquals(2, first.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void canContinueABatchOnlyWithTheSameAppId(String mode) throws IOException {
            serve();
            rows(4);
            call(settings("DIFY_APP_ID", Simulator.FIRST_APP), typed("run", "--limit", "2", "--mode", mode)).exits(0);

            call(settings("DIFY_APP_ID", Simulator.SECOND_APP), typed("run", "--mode", mode)).exits(2)
                    .reports("DIFY_APP_ID").hints();
            call(settings("DIFY_APP_ID", Simulator.SECOND_APP), "verify", "-o", output()).exits(2);

            assertEquals(List.of(2, 0), List.of(first.count("started"), second.count("started")));
            call(settings("DIFY_APP_ID", Simulator.FIRST_APP), typed("run", "--mode", mode)).exits(0);
            assertEquals(4, first.count("started"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"dfoa_", "dfoe_"})
        void aTokenOfTheCommandLineToolIsNamedAsSuch(String prefix) throws IOException {
            rows(1);
            var settings = new Simulated().settings("DIFY_API_KEY", prefix + "7f6e5d4c3b2a41908f7e");

            for (var command : List.of(new String[] {"check", "-i", input()}, typed("run")))
                call(settings, command).exits(4).reports("dfoa_ or dfoe_", "difyctl", "app-").omits("7f6e5d4c");
        }

        @ParameterizedTest
        @CsvSource({"sk-7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2910, sk-***", "dfoa_7f6e5d4c3b2a41908f7e-_, dfoa_***",
                "dfoe_7f6e5d4c3b2a41908f7e, dfoe_***"})
        void isMaskedInErrorMessagesFromTheServer(String foreign, String masked) throws IOException {
            var dify = dify();
            rows(1);
            dify.info(dify.refused(401, "unauthorized", "The token " + foreign + " is invalid"));

            dify.run().exits(4).reports(masked + " is").omits("7f6e5d4c");
        }

        @Test
        void anAppsApiKeyIsSentWithoutAnAppIdHeader() throws IOException {
            var dify = new Simulated("--latency", "10ms");
            rows(1);

            call(dify.settings("DIFY_APP_ID", " "), typed("run")).exits(0);

            assertTrue(dify.requests.stream()
                    .noneMatch(request -> request.headers().containsKey(SimulatedDify.APP_ID)));
        }
    }

    // ── Runs that move ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ARunMovedToAnotherWorker extends WholeCommand {
        /// With half a second of work before and after a move of nine: longer than TIMEOUT. The message of a blocking
        /// chatflow does not name its run, so nothing shows that it moves.
        @ParameterizedTest
        @CsvSource({"blocking, workflow", "streaming, workflow", "streaming, chatflow"})
        void hasTheTimeOfItsMoveExcludedFromItsTimeLimit(String mode, String app) throws IOException {
            var dify = new Simulated("--dify", "1.19.0", "--app", app, "--latency", "1s");
            csv(header(app), "1,[move 9s]", "2,[move 9s]", "3,short");

            call(dify.settings(), typed("run", "--mode", mode, "--timeout", "6s", "-c", "3")).exits(0);
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(List.of(3, 0, 0), Stream.of("started", "twice", "stops").map(dify::count).toList());
        }
    }

    // ── Forms ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AHumanInputForm extends WholeCommand {
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
        void isShownWithItsNodeAndExpiryButItsTokenOnlyInLogAndShell(String version, String app, String mode,
                String node) throws IOException {
            var settings = new Simulated("--dify", version, "--app", app, "--latency", "10ms").settings();
            csv(header(app), "1,[pause]", "2,[pause]", "3,fine");

            var ran = call(settings, typed("run", "--mode", mode)).exits(3);
            assertEquals("succeeded=1 paused=2", status());
            var forms = events("form");
            assertEquals(List.of("1", "2"), forms.stream().map(form -> form.path("id").asText()).sorted().toList());
            var form = first(forms);
            assertEquals(node, form.path("node").asText());
            var until = Times.local(Instant.parse(form.path("until").asText()));
            assertEquals(first(events("end")).path("run"), form.path("run"));
            assertFalse(form.path("token").asText().isEmpty(), form::toString);

            var status = call(Map.of(), "status", "-o", output(), "--html", path("report.html"));
            var json = call(Map.of(), "status", "-o", output(), "--json");
            var first = forms.stream().map(one -> one.path("until").asText())
                    .min(Comparator.naturalOrder()).orElseThrow();
            var shown = List.of(status.out(), json.out(), content("report.html"));
            for (var text : shown)
                assertTrue(text.contains(node + ", until " + Times.local(Instant.parse(first))), text);
            assertTrue(shown.getLast().contains(node + ", until " + until), "each row has its own");
            for (var one : forms) for (var text : List.of(ran.out() + ran.err(), shown.toString(),
                    content("results.jsonl.retry"), content("results.jsonl")))
                assertFalse(text.contains(one.path("token").asText()), text);
            inShell(Map.of(), "show 1").exits(0).shows(node, until, form.path("token").asText());
        }

        private static JsonNode first(List<JsonNode> events) {
            return events.stream().filter(event -> event.path("id").asText().equals("1")).findFirst().orElseThrow();
        }

        /// The record that a later look-up finds has nothing of the form.
        @Test
        void isStillShownWhenALaterSessionFindsTheRunPaused() throws IOException {
            var dify = dify();
            rows(1);
            var answer = "{'task_id':'task-1','workflow_run_id':'run-1','data':{'id':'run-1','workflow_id':'w',"
                    + "'status':'paused','outputs':{},'total_steps':3,'reasons':[{'TYPE':'human_input_required',"
                    + "'form_id':'f','node_title':'Approve %s','form_token':'secret-1','expiration_time':1795537934},"
                    + "{'TYPE':'human_input_required','form_id':'g','node_title':'Sign','form_token':null,"
                    + "'expiration_time':null}]}}";
            dify.row("1", dify.answer(200, json(answer, "refund")));
            dify.recorded("1", "paused");

            dify.run().exits(3);
            dify.run().exits(3);

            assertEquals(1, dify.runs());
            assertEquals(2, events("end").size());
            call(Map.of(), "status", "-o", output()).omits("secret-1")
                    .shows("Approve refund: Sign (only its recipients can answer it), until " + Times.local(Instant.ofEpochSecond(1795537934)));
            var shown = inShell(Map.of(), "show 1").exits(0).shows("token secret-1").out();
            assertEquals(1, shown.split("token", -1).length - 1, "the other form has none");
        }

        /// Dify then ends the run as a success. A form that was answered in time does not count.
        @ParameterizedTest
        @CsvSource({"1795537934, 1", "1795537933, 0"})
        void isCountedIfItExpiredBeforeItsRunEnded(long finished, int expired) throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", dify.answer(200, json("{'task_id':'task-1','workflow_run_id':'run-1','data':{'id':'run-1',"
                    + "'workflow_id':'w','status':'paused','outputs':{},'total_steps':3,'reasons':[{'form_id':'f',"
                    + "'node_title':'Approve','form_token':'t','expiration_time':1795537934}]}}")));
            dify.run().exits(3);
            dify.recorded("1", finished);

            var run = dify.run().exits(0);

            assertEquals(expired, events("expired").size());
            var shown = List.of(run, call(Map.of(), "status", "-o", output()), inShell(Map.of(), "show 1"));
            for (var call : shown) assertEquals(expired == 1, (call.out() + call.err()).contains("form expired"));
            var status = Given.tree(call(Map.of(), "status", "-o", output(), "--json").out());
            assertEquals(expired, status.path("forms_expired").asInt());
        }
    }

    // ── Streams ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AStreamOfALaterDifyVersion extends WholeCommand {
        /// With `id:` lines, comments, `reasoning_chunk` and events that nobody knows.
        @ParameterizedTest
        @ValueSource(strings = {"workflow", "chatflow"})
        void yieldsTheSameResultsAsAnEarlierVersionsStream(String app) throws IOException {
            var all = new ArrayList<List<String>>();
            for (var version : List.of("1.16.1", "1.19.0")) {
                var settings = new Simulated("--dify", version, "--app", app, "--latency", "20ms").settings();
                csv(header(app), "1,a", "2,[drop-after]", "3,[fail]", "4,[partial]");
                call(settings, typed("run", "--mode", "streaming", "--fresh")).exits(3);
                all.add(results().stream().map(line -> line.path("id") + " " + line.path("outputs") + " "
                        + line.path("workflow_status") + " " + line.path("total_tokens") + " "
                        + line.path("total_price"))
                        .sorted().toList());
            }
            assertEquals(3, all.getFirst().size());
            assertEquals(all.getFirst(), all.getLast());
        }
    }
}
