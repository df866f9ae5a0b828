package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.github.tomakehurst.wiremock.client.WireMock;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.assertEquals;

/// `verify`: batches and planted faults, against a simulated server.
final class VerifyTest extends WholeCommand {

    private SimulatedDify dify;

    private Map<String, String> start(String... options) throws IOException {
        var simulated = new Simulated(Stream.concat(Stream.of("--latency", "20ms"), Stream.of(options)).toArray(String[]::new));
        dify = simulated.app;
        return simulated.settings();
    }

    private Call verify(Map<String, String> settings, String... more) throws IOException {
        return call(settings, Stream.concat(Stream.of("verify", "-o", output(), "--json"), Stream.of(more))
                .toArray(String[]::new));
    }

    /// `matches=3 failed=1`, without zeros.
    private static String counts(Call call) throws IOException {
        return tree(call.out()).path("findings").properties().stream()
                .map(kind -> kind.getKey() + "=" + kind.getValue().size()).sorted().collect(Collectors.joining(" "));
    }

    private static List<String> ids(Call call, String kind) throws IOException {
        return tree(call.out()).path("findings").path(kind).valueStream().map(one -> one.path("id").asText()).toList();
    }

    /// Runs these lines of a CSV on a server with these options.
    private Map<String, String> batch(String options, String mode, String... lines) throws IOException {
        var settings = start(options.split(" "));
        csv(lines);
        call(settings, typed("run", "--mode", mode));
        return settings;
    }

    /// Starts a chatflow's batch of rows 1 to `count` in this mode.
    private Map<String, String> chatflow(String version, String mode, int count) throws IOException {
        var settings = start("--app", "chatflow", "--dify", version, "--columns", "id,tone");
        csv(Stream.concat(Stream.of("id,tone,query"), IntStream.rangeClosed(1, count)
                .mapToObj(id -> id + ",tone " + id + ",question " + id)).toArray(String[]::new));
        call(settings, typed("run", "--mode", mode)).exits(0);
        return settings;
    }

    private Map<String, String> workflow(String version, String mode, int count) throws IOException {
        var settings = start("--dify", version);
        rows(count);
        call(settings, typed("run", "--mode", mode)).exits(0);
        return settings;
    }

    /// Sends a row's request once more, under the user of its first attempt, as a proxy may or as anybody can by hand.
    private void repeat(Map<String, String> settings, String id) throws IOException, InterruptedException {
        var user = events("attempt").stream().filter(line -> line.path("id").asText().equals(id)).findFirst()
                .orElseThrow().path("user").asText();
        var body = ServerTest.JSON.createObjectNode().put("user", user).put("query", "question " + id);
        body.putObject("inputs").put("id", id).put("text", "text " + id);
        boolean isChat = content("data.csv").contains("query");
        var request = HttpRequest.newBuilder(URI.create(settings.get("DIFY_API_BASE_URL")
                        + (isChat ? "/chat-messages" : "/workflows/run")))
                .header("Authorization", "Bearer " + KEY).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body.toString())).build();
        try (var http = HttpClient.newHttpClient()) {
            assertEquals(200, http.send(request, HttpResponse.BodyHandlers.discarding()).statusCode());
        }
    }

    /// Rewrites each line of the results, or drops it if the change returns null.
    private void damage(UnaryOperator<ObjectNode> change) throws IOException {
        var lines = new ArrayList<String>();
        for (var line : results()) {
            var changed = change.apply((ObjectNode) line);
            if (changed != null) lines.add(changed.toString());
        }
        Files.writeString(file("results.jsonl"), String.join("\n", lines) + "\n");
    }

    @Nested
    class AVerification {
        @ParameterizedTest(name = "{0} of Dify {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                app,      version, mode
                workflow, 1.9.2,   blocking
                workflow, 1.14.2,  streaming
                workflow, 1.16.0,  blocking
                chatflow, 1.9.2,   streaming
                chatflow, 1.16.0,  streaming
                """)
        void findsNothingWrongInASoundBatch(String app, String version, String mode) throws IOException {
            var column = app.equals("chatflow") ? "query" : "text";
            var settings = start("--app", app, "--dify", version, "--columns", "id,text");
            csv("id," + column, "1,one", "2,two", "3,three");
            assertEquals(0, call(settings, typed("run", "--mode", mode)).code());

            var call = verify(settings);

            assertEquals("matches=3", counts(call), call.toString());
            call.exits(0);
        }

        @Test
        void comparesNumbersByValue() throws IOException {
            var form = Files.writeString(file("form.json"),
                    "[{\"number\":{\"variable\":\"n\",\"label\":\"n\",\"type\":\"number\",\"required\":true}}]");
            var settings = start("--dify", "1.16.0", "--form", form.toString());
            csv("id,n", "1,007", "2,+7", "3,5.", "4,.50");
            call(settings, typed("run", "--mode", "blocking")).exits(0);

            assertEquals("matches=4", counts(verify(settings)));
        }

        @Test
        void looksUpTheRunIfTheMessageHasNoAnswer() throws IOException {
            var settings = batch("--app chatflow --dify 1.9.2 --columns id --drop-after 100%", "streaming",
                    "id,query", "1,one", "2,two");

            var call = verify(settings);

            assertEquals("matches=2", counts(call), call.toString());
        }

        @Test
        void distinguishesFailedAttemptsFromWrongOnes() throws IOException {
            var settings = batch("--dify 1.14.2", "blocking", "id,text", "1,one", "2,[fail!] two");

            var call = verify(settings);

            assertEquals("failed=1 matches=1", counts(call), call.toString());
            call.exits(0);
        }

        @Test
        void findsAnotherRowsOutputsAChangedStatusAndAMissingLine() throws IOException {
            var settings = workflow("1.16.0", "blocking", 4);
            var other = result("4").path("outputs");
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("outputs", other);
                case "2" -> line.put("workflow_status", "partial-succeeded");
                case "3" -> null;
                default -> line;
            });

            var call = verify(settings);

            assertEquals("differs=2 lost=1 matches=1", counts(call), call.toString());
            assertEquals(List.of("1", "2"), ids(call, "differs"));
            assertEquals(List.of("3"), ids(call, "lost"));
            call.exits(Exit.ROWS_FAILED.code);
        }

        /// A killed session leaves no event that says its rows were done. The size of the results shows that one is gone.
        @Test
        void findsADeletedLineOfAKilledSession() throws IOException {
            var settings = start("--dify", "1.16.1");
            rows(4);
            call(settings, typed("run", "--mode", "blocking", "--limit", "3"));
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log").lines()
                    .filter(line -> !line.startsWith("{\"event\":\"stop\"")).collect(Collectors.joining("\n", "", "\n")));
            assertEquals(0, call(settings, typed("run", "--mode", "blocking")).code());
            var sound = verify(settings);
            damage(line -> line.path("id").asText().equals("2") ? null : line);

            var call = verify(settings);

            assertEquals("matches=4", counts(sound), sound.toString());
            assertEquals("lost=1 matches=3", counts(call), call.toString());
            assertEquals(List.of("2"), ids(call, "lost"));
        }

        /// The log says first that it waits for a person, and then only that its result was taken.
        @Test
        void findsADeletedLineOfARowThatWasPaused() throws IOException {
            var settings = workflow("1.16.1", "blocking", 2);
            var user = events("attempt").stream().filter(sent -> sent.path("id").asText().equals("1")).findFirst()
                    .orElseThrow().path("user").asText();
            var stop = content("results.jsonl.log").lines().toList().getLast();
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log").replace(stop, Given.json(
                    "{'event':'end','t':'2026-01-16T12:00:00Z','id':'1','user':'" + user + "','outcome':'paused'}\n"
                    + "{'event':'harvest','t':'2026-01-16T12:00:00Z','user':'" + user + "'}\n") + stop));
            damage(line -> line.path("id").asText().equals("1") ? null : line);

            assertEquals(List.of("1"), ids(verify(settings), "lost"));
        }

        @Test
        void findsARowPaidTwiceUnlessThatWasAskedFor() throws IOException {
            var settings = workflow("1.14.2", "blocking", 2);
            assertEquals(0, call(settings, typed("retry", "1", "--force", "--mode", "blocking")).code());

            var asked = verify(settings);
            var log = content("results.jsonl.log").replace(",\"again\":true", "");
            Files.writeString(file("results.jsonl.log"), log);
            var unasked = verify(settings);

            assertEquals("matches=2 sent_again=1", counts(asked), asked.toString());
            asked.exits(0);
            assertEquals("matches=2 paid_twice=1", counts(unasked), unasked.toString());
            assertEquals(List.of("1"), ids(unasked, "paid_twice"));
            unasked.exits(Exit.ROWS_FAILED.code);
        }

        @Test
        void reportsAResultWhoseRunIsNotItsAttempts() throws IOException {
            var settings = workflow("1.14.2", "blocking", 2);
            var gone = UUID.randomUUID().toString();
            var run = result("1").path("workflow_run_id").asText();
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log").replace(run, gone));
            damage(line -> line.path("id").asText().equals("1") ? line.put("workflow_run_id", gone)
                    : line.put("workflow_run_id", UUID.randomUUID().toString()));

            var call = verify(settings);

            assertEquals(List.of("1", "2"), ids(call, "without_run"), call.toString());
            assertEquals("without_run=2", counts(call), call.toString());
        }

        @Test
        void countsWhatTheServerCannotShowAsNotVerifiable() throws IOException {
            var settings = start("--dify", "1.9.2");
            csv("id,text", "1,one", "2,[drop-before!] two");
            call(settings, typed("run", "--mode", "streaming", "--max-retries", "0"));

            var call = verify(settings);

            assertEquals("matches=1 not_verifiable=1", counts(call), call.toString());
            call.exits(0);
        }

        @Test
        void verifiesASampleAndRefusesAnotherServer() throws IOException {
            var settings = start("--dify", "1.14.2");
            rows(9);
            assertEquals(0, call(settings, typed("run")).code());

            assertEquals(3, tree(verify(settings, "--sample", "3").out()).path("rows").asInt());
            var elsewhere = start("--dify", "1.14.2");
            assertEquals(Exit.UNUSABLE.code, verify(elsewhere).code());
            Files.delete(file("results.jsonl.log"));
            assertEquals(Exit.UNUSABLE.code, verify(settings).code());
        }

        @ParameterizedTest(name = "{0}, {1}")
        @CsvSource({"1.14.2, streaming", "1.16.1, blocking", "1.16.1, streaming"})
        void acceptsAChatflowThatContinuedAfterItsPause(String version, String mode) throws Exception {
            var settings = start("--app", "chatflow", "--dify", version, "--columns", "id");
            csv("id,query", "1,one", "2,[pause] two");
            call(settings, typed("run", "--mode", mode));
            dify.ledger().each(job -> job.resumed.orTimeout(9, TimeUnit.SECONDS)); // a person answers the form
            assertEquals(0, until("succeeded=2", settings, mode));

            var call = verify(settings);

            assertEquals("matches=2", counts(call), call.toString());
            call.exits(0);
        }

        private int until(String status, Map<String, String> settings, String mode) throws IOException {
            int code = -1;
            for (int calls = 0; calls < 50 && !status().equals(status); calls++)
                code = call(settings, typed("run", "--mode", mode)).code();
            return code;
        }

        @Test
        void callsARunOpenThatDifyStillRecordsAsRunning() throws IOException {
            var settings = batch("--dify 1.16.1", "streaming", "id,text", "1,one", "2,[unrecorded] two");

            var call = verify(settings);

            assertEquals("matches=1 open=1", counts(call), call.toString());
            call.exits(0);
        }

        @Test
        void exitsWithFourIfNoResultIsConfirmed() throws IOException {
            var settings = batch("--dify 1.16.1", "streaming", "id,text", "1,[unrecorded] one");

            assertEquals(Exit.STOPPED.code, verify(settings).code());
        }

        @ParameterizedTest(name = "{0} of Dify {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                app,      version, mode
                workflow, 1.9.2,   blocking
                workflow, 1.9.2,   streaming
                workflow, 1.16.1,  streaming
                chatflow, 1.9.2,   blocking
                chatflow, 1.16.1,  blocking
                chatflow, 1.16.1,  streaming
                """)
        void findsASecondRunOfOneAttempt(String app, String version, String mode) throws Exception {
            var settings = app.equals("chatflow") ? chatflow(version, mode, 2) : workflow(version, mode, 2);
            repeat(settings, "2");

            var call = verify(settings);

            assertEquals("matches=2 paid_twice=1", counts(call), call.toString());
            assertEquals(List.of("2"), ids(call, "paid_twice"));
            call.exits(Exit.ROWS_FAILED.code);
        }

        @Test
        void findsASecondRunOfAnAttemptThatFailed() throws Exception {
            var settings = start("--dify", "1.16.1");
            csv("id,text", "1,one", "2,[fail] two");
            call(settings, typed("run", "--mode", "blocking", "--retry-failed-runs", "never"));
            repeat(settings, "2");

            var call = verify(settings);

            assertEquals("failed=1 lost=1 matches=1", counts(call), call.toString());
        }

        @ParameterizedTest(name = "{0} of Dify {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                app,      version, mode
                workflow, 1.9.2,   blocking
                workflow, 1.16.1,  streaming
                chatflow, 1.9.2,   streaming
                chatflow, 1.16.1,  blocking
                chatflow, 1.16.1,  streaming
                """)
        void findsExchangedIdsAnAddedRowAndADuplicate(String app, String version, String mode) throws Exception {
            var settings = app.equals("chatflow") ? chatflow(version, mode, 5) : workflow(version, mode, 5);
            var fourth = result("4").toString();
            var added = ((ObjectNode) result("5")).put("id", "new").toString();
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.put("id", "2");
                case "2" -> line.put("id", "1");
                default -> line;
            });
            Files.writeString(file("results.jsonl"), fourth + "\n" + added + "\n", StandardOpenOption.APPEND);

            var call = verify(settings);

            assertEquals(List.of("1", "2", "new"), ids(call, "without_run"), call.toString());
            assertEquals(List.of("4"), ids(call, "duplicated"), call.toString());
            assertEquals("duplicated=1 matches=3 without_run=3", counts(call), call.toString());
        }

        @Test
        void findsChangedInputsAnExtraOutputAndAChangedStatus() throws IOException {
            var settings = workflow("1.16.1", "blocking", 4);
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("text", "other"));
                case "2" -> line.set("outputs", ((ObjectNode) line.path("outputs")).put("more", 1));
                case "3" -> line.put("workflow_status", "partial-succeeded");
                default -> line;
            });

            var call = verify(settings);

            assertEquals("differs=3 matches=1", counts(call), call.toString());
        }

        @ParameterizedTest
        @CsvSource({"1.9.2, blocking, 4", "1.9.2, streaming, 5", "1.14.2, streaming, 5", "1.16.1, blocking, 4",
                "1.16.1, streaming, 5"})
        void findsWhatWasChangedInAChatflowsResult(String version, String mode, int differing) throws IOException {
            var settings = chatflow(version, mode, 8);
            var other = result("8");
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("outputs", other.path("outputs"));
                case "2" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("tone", "other"));
                case "3" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("query", "other"));
                case "4" -> line.set("outputs", ((ObjectNode) line.path("outputs")).put("more", 1));
                case "5" -> line.set("conversation_id", other.path("conversation_id"));
                case "6" -> line.put("message_id", UUID.randomUUID().toString());
                case "7" -> mode.equals("streaming") ? line.put("workflow_status", "partial-succeeded") : line;
                default -> line;
            });

            var call = verify(settings);

            assertEquals("differs=" + differing + " matches=" + (6 - differing) + " without_run=2", counts(call), call.toString());
            assertEquals(List.of("5", "6"), ids(call, "without_run"));
        }

        @Test
        void readsAChangedColumnByTheNameThatMapGivesIt() throws IOException {
            var settings = start("--dify", "1.16.1");
            csv("id,words", "1,one", "2,two");
            call(settings, typed("run", "--map", "words=text")).exits(0);
            damage(line -> line.path("id").asText().equals("2")
                    ? line.set("inputs", ((ObjectNode) line.path("inputs")).put("words", "other")) : line);

            assertEquals("differs=1 matches=1", counts(verify(settings)));
        }

        @Test
        void cannotVerifyARowIfTheServerMayRunAnotherApp() throws IOException {
            var settings = batch("--dify 1.16.1", "blocking", "id,text", "1,[throttle] one");
            var before = counts(verify(settings));
            var again = ((ObjectNode) events("session").getFirst()).put("same_app", true);
            Files.writeString(file("results.jsonl.log"), again + "\n", StandardOpenOption.APPEND);

            var call = verify(settings);

            assertEquals("matches=1 never_started=1", before);
            assertEquals("matches=1 not_verifiable=1", counts(call), call.toString());
        }

        @ParameterizedTest(name = "a list {0}")
        @CsvSource(delimiter = '|', textBlock = """
                of all users     | {'data':[{'workflow_run':{'id':'run-9','status':'succeeded'},'created_by_end_user':{'session_id':'someone'}}]}
                without its data | {'total':1,'data':[]}
                with more        | {'has_more':true,'data':[]}
                without a name   | {'data':[{'workflow_run':{'id':'run-9','status':'succeeded'},'created_by_end_user':null}]}
                as a page        | {}
                """)
        void concludesNothingFromAListThatIsNotTheOneAskedFor(String name, String list) throws IOException {
            var server = dify();
            server.row("1", server.ended("succeeded", ""));
            server.row("2", server.ended("failed", "no"));
            rows(2);
            server.run("--retry-failed-runs", "never");
            server.server.stubFor(WireMock.get(WireMock.urlPathEqualTo("/v1/workflows/logs"))
                    .willReturn(server.answer(200, text(list))));
            detail(server, "run-1", "run-1");

            var call = verify(server.settings());

            assertEquals("matches=1 not_verifiable=2", counts(call), call.toString());
            call.exits(0);
        }

        private void detail(Dify server, String asked, String answered) {
            server.server.stubFor(WireMock.get(WireMock.urlEqualTo("/v1/workflows/run/" + asked)).willReturn(
                    server.answer(200, text("{'id':'%s','status':'succeeded','outputs':{'row_id':'1'}}", answered))));
        }

        @Test
        void concludesNothingFromAnotherRunOrAnEmptyBody() throws IOException {
            var server = dify();
            rows(3);
            assertEquals(0, server.run().code());
            detail(server, "run-1", "run-1");
            detail(server, "run-2", "run-1");
            server.server.stubFor(WireMock.get(WireMock.urlEqualTo("/v1/workflows/run/run-3"))
                    .willReturn(server.answer(200, "")));

            var call = verify(server.settings());

            assertEquals("matches=1 not_verifiable=2", counts(call), call.toString());
            assertEquals(List.of("2", "3"), ids(call, "not_verifiable"));
        }
    }
}
