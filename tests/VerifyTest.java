package difyexec;

import com.fasterxml.jackson.databind.node.ObjectNode;
import com.github.tomakehurst.wiremock.client.WireMock;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// `verify`: batches and planted faults, against a simulated server.
final class VerifyTest extends WholeCommand {
    private static final String LOG = "results.jsonl.log";

    private SimulatedDify dify;

    /// Starts a server with these options and runs these lines of a CSV on it.
    private Map<String, String> batch(String options, String mode, String... lines) throws IOException {
        var simulated = new Simulated(("--latency 20ms " + options).split(" "));
        dify = simulated.app;
        csv(lines);
        call(simulated.settings(), typed("run", "--mode", mode));
        return simulated.settings();
    }

    /// Runs rows 1 to `count` of a workflow or a chatflow.
    private Map<String, String> rows(String app, String version, String mode, int count) throws IOException {
        boolean isChat = app.equals("chatflow");
        var rows = IntStream.rangeClosed(1, count)
                .mapToObj(id -> id + ",text " + id + (isChat ? ",question " + id : ""));
        return batch("--app " + app + " --dify " + version, mode,
                words(List.of(isChat ? "id,text,query" : "id,text"), rows.toArray(String[]::new)));
    }

    private Call verify(Map<String, String> settings, String... more) throws IOException {
        return call(settings, words(List.of("verify", "-o", output(), "--json"), more));
    }

    /// Verifies the batch and checks the findings: `failed=1 matches=3`, without zeros.
    private Call finds(String counts, Map<String, String> settings) throws IOException {
        var call = verify(settings);
        assertEquals(counts, tree(call.out()).path("findings").properties().stream()
                .map(kind -> kind.getKey() + "=" + kind.getValue().size()).sorted().collect(Collectors.joining(" ")),
                call::toString);
        return call;
    }

    private static List<String> ids(Call call, String kind) throws IOException {
        return tree(call.out()).path("findings").path(kind).valueStream().map(one -> one.path("id").asText()).toList();
    }

    /// Sends a row's request once more, under the user of its first attempt, as a proxy may or as anybody can by hand.
    private void repeat(Map<String, String> settings, String id) throws IOException, InterruptedException {
        var body = Given.JSON.createObjectNode().put("user", user(id)).put("query", "question " + id);
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
        var lines = results().stream().map(line -> change.apply((ObjectNode) line)).filter(Objects::nonNull);
        Files.writeString(file("results.jsonl"), lines.map(line -> line + "\n").collect(Collectors.joining()));
    }

    private void drop(String id) throws IOException {
        damage(line -> line.path("id").asText().equals(id) ? null : line);
    }

    @Nested
    class AVerification {
        @Test
        void isRejectedIfItsOptionsOrFileCannotBeUsed() throws IOException {
            rows(1);
            var settings = new Simulated().settings();
            call(settings, typed("run")).exits(0);

            call(settings, "verify", "-o", output(), "--seed", "1").exits(2).reports("--seed").hints("--sample");
            call(settings, "verify", "-o", input()).exits(2).reports(input() + ": ").hints("results");
        }

        @ParameterizedTest(name = "{0} of Dify {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                app,      version, mode
                workflow, 1.9.2,   blocking
                workflow, 1.14.2,  streaming
                workflow, 1.16.0,  blocking
                chatflow, 1.9.2,   streaming
                chatflow, 1.16.0,  streaming
                """)
        void confirmsEveryResultOfASoundBatch(String app, String version, String mode) throws IOException {
            finds("matches=3", rows(app, version, mode, 3)).exits(0);
        }

        /// Jackson refuses such numbers.
        @Test
        void acceptsCellsThatLookLikeAnEnormousNumber() throws IOException {
            finds("matches=2", batch("--dify 1.16.1", "blocking", "id,text", "1,12e34567890123", "2,-1e-99999999999"));
        }

        @Test
        void comparesNumbersByValue() throws IOException {
            var form = Files.writeString(file("form.json"),
                    "[{\"number\":{\"variable\":\"n\",\"label\":\"n\",\"type\":\"number\",\"required\":true}}]");

            finds("matches=4", batch("--dify 1.16.0 --form " + form, "blocking",
                    "id,n", "1,007", "2,+7", "3,5.", "4,.50"));
        }

        @Test
        void looksUpTheRunIfItsChatMessageHasNoAnswer() throws IOException {
            finds("matches=2", batch("--app chatflow --dify 1.9.2 --columns id --drop-after 100%", "streaming",
                    "id,query", "1,one", "2,two"));
        }

        @Test
        void countsAFailedRowAsFailedAndExitsWithZero() throws IOException {
            finds("failed=1 matches=1", batch("--dify 1.14.2", "blocking", "id,text", "1,one", "2,[fail!] two"))
                    .exits(0);
        }

        @Test
        void findsChangedAndMissingResults() throws IOException {
            var settings = rows("workflow", "1.16.1", "blocking", 6);
            var other = result("6").path("outputs");
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("outputs", other);
                case "2" -> line.put("workflow_status", "partial-succeeded");
                case "3" -> null;
                case "4" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("text", "other"));
                case "5" -> line.set("outputs", ((ObjectNode) line.path("outputs")).put("more", 1));
                default -> line;
            });

            var call = finds("differs=4 lost=1 matches=1", settings).exits(3);

            assertEquals(List.of("1", "2", "4", "5"), ids(call, "differs"));
            assertEquals(List.of("3"), ids(call, "lost"));
        }

        /// The cells are read again as they were when they were sent.
        @Test
        void readsNumbersByTheDecimalMarkAndOptionsWithoutSpaces() throws IOException {
            var simulated = new Simulated("--dify", "1.16.1", "--latency", "10ms");
            simulated.form("[{'number':{'variable':'stars'}},{'select':{'variable':'lang','options':['de','en']}}]");
            csv("id;stars;lang", "1;1,5; de", "2;1.234,5;en ", "3;2;de");
            simulated.run("--mode", "blocking", "--decimal", ",").exits(0);
            dify = simulated.app;
            damage(line -> line.path("id").asText().equals("3")
                    ? line.set("inputs", ((ObjectNode) line.path("inputs")).put("stars", "2,1")) : line);

            var call = finds("differs=1 matches=2", simulated.settings());

            assertEquals(List.of("3"), ids(call, "differs"));
        }

        /// A killed session leaves no event that its rows were done. The size of the results shows that one is gone.
        @Test
        void findsADeletedResultOfAKilledSession() throws IOException {
            var settings = rows("workflow", "1.16.1", "blocking", 3);
            replace(LOG, content(LOG).lines().toList().getLast() + "\n", "");
            rows(4);
            call(settings, typed("run", "--mode", "blocking")).exits(0);
            finds("matches=4", settings);
            drop("2");

            assertEquals(List.of("2"), ids(finds("lost=1 matches=3", settings), "lost"));
        }

        /// The log records first that the row waits for a person, and then only that its result was taken.
        @Test
        void findsADeletedResultOfARowThatWasPaused() throws IOException {
            var settings = rows("workflow", "1.16.1", "blocking", 2);
            var stop = content(LOG).lines().toList().getLast();
            replace(LOG, stop, json("""
                    {'event':'end','t':'2026-01-16T12:00:00Z','id':'1','user':'USER','outcome':'paused'}
                    {'event':'harvest','t':'2026-01-16T12:00:00Z','user':'USER'}
                    """).replace("USER", user("1")) + stop);
            drop("1");

            assertEquals(List.of("1"), ids(verify(settings), "lost"));
        }

        @Test
        void reportsARowThatRanTwiceUnlessTheUserRequestedARetry() throws IOException {
            var settings = rows("workflow", "1.14.2", "blocking", 2);
            call(settings, typed("retry", "1", "--again", "--mode", "blocking")).exits(0);
            finds("matches=2 sent_again=1", settings).exits(0);

            replace(LOG, ",\"again\":true", "");

            assertEquals(List.of("1"), ids(finds("matches=2 paid_twice=1", settings).exits(3), "paid_twice"));
        }

        /// A longer pause than ten minutes is not obeyed. A shorter one is obeyed by all rows, and reported once.
        @ParameterizedTest
        @CsvSource({"86400, 99, 0", "1, 1, 1"})
        void doesNotWaitForADay(String pause, int times, int reports) throws IOException {
            var good = rows("workflow", "1.16.1", "blocking", 2);
            var url = good.get("DIFY_API_BASE_URL");
            var left = new AtomicInteger(times);
            var busy = serve(exchange -> {
                boolean isLeft = !exchange.getRequestURI().getPath().endsWith("/info") && left.decrementAndGet() >= 0;
                if (isLeft) exchange.getResponseHeaders().add("Retry-After", pause);
                boolean isInfo = exchange.getRequestURI().getPath().endsWith("/info");
                var body = json("{'name':'simulated','mode':'workflow'}").getBytes();
                exchange.sendResponseHeaders(isInfo ? 200 : 429, body.length);
                exchange.getResponseBody().write(body);
            });
            replace(LOG, url, busy.toString());
            var settings = new HashMap<>(good);
            settings.put("DIFY_API_BASE_URL", busy.toString());

            var call = finds("no_answer=4", settings).exits(4);

            assertEquals(reports, call.err().lines().filter(line -> line.contains("Retry-After")).count());
        }

        /// The user asked for the second run. The log shows that for the third one, which has the result, only until it
        /// is changed.
        @Test
        void reportsARunForWhichARetryInAnotherSessionDoesNotAccount() throws IOException {
            var settings = rows("workflow", "1.14.2", "blocking", 2);
            call(settings, typed("retry", "1", "--again", "--mode", "blocking")).exits(0);
            call(settings, typed("retry", "1", "--again", "--mode", "blocking")).exits(0);
            var last = content(LOG).lines().filter(line -> line.contains("\"again\":true")).toList().getLast();

            replace(LOG, last, last.replace(",\"again\":true", ""));

            finds("matches=2 paid_twice=1 sent_again=1", settings).exits(3);
        }

        @Test
        void reportsResultsWhoseRunsDifyDoesNotHave() throws IOException {
            var settings = rows("workflow", "1.14.2", "streaming", 2);
            var gone = UUID.randomUUID().toString();
            replace(LOG, result("1").path("workflow_run_id").asText(), gone);
            damage(line -> line.put("workflow_run_id", line.path("id").asText().equals("1") ? gone
                    : UUID.randomUUID().toString()));

            assertEquals(List.of("1", "2"), ids(finds("without_run=2", settings), "without_run"));
        }

        @Test
        void countsARowAsNotVerifiableIfDifyCannotShowItsRun() throws IOException {
            finds("matches=1 not_verifiable=1", batch("--dify 1.9.2", "streaming",
                    "id,text", "1,one", "2,[drop-before!] two")).exits(0);
        }

        @Test
        void checksASampleButRejectsAnotherServerOrAMissingLog() throws IOException {
            var settings = rows("workflow", "1.14.2", "auto", 9);

            assertEquals(3, tree(verify(settings, "--sample", "3").out()).path("rows").asInt());
            verify(new Simulated("--dify", "1.14.2").settings()).exits(2);
            Files.delete(file(LOG));
            verify(settings).exits(2);
        }

        @Test
        void rejectsABatchOfTheDemoBeforeItAsksForAKey() throws IOException {
            csv("id,text", "1,one");
            call(Map.of(), typed("run", "--demo")).exits(0);

            var refused = verify(Map.of()).exits(2);
            assertTrue(refused.err().contains("--demo") && !refused.err().contains("DIFY_API_KEY"), refused::toString);
        }

        @ParameterizedTest(name = "{0}, {1}")
        @CsvSource({"1.14.2, streaming", "1.16.1, blocking", "1.16.1, streaming"})
        void acceptsAChatflowThatContinuedAfterItsPause(String version, String mode) throws Exception {
            var settings = batch("--app chatflow --columns id --dify " + version, mode,
                    "id,query", "1,one", "2,[pause] two");
            // the simulator's person answers the form
            until("both have succeeded", () -> {
                call(settings, typed("run", "--mode", mode));
                return status().equals("succeeded=2");
            });

            finds("matches=2", settings).exits(0);
        }

        @Test
        void countsARunThatDifyStillRecordsAsRunningAsOpen() throws IOException {
            finds("matches=1 open=1", batch("--dify 1.16.1", "streaming",
                    "id,text", "1,one", "2,[unrecorded] two")).exits(0);
        }

        @Test
        void exitsWithFourIfNoResultIsConfirmed() throws IOException {
            verify(batch("--dify 1.16.1", "streaming", "id,text", "1,[unrecorded] one")).exits(4);
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
            var settings = rows(app, version, mode, 2);
            repeat(settings, "2");

            assertEquals(List.of("2"), ids(finds("matches=2 paid_twice=1", settings).exits(3), "paid_twice"));
        }

        @Test
        void findsASecondRunOfAnAttemptThatFailed() throws Exception {
            var settings = batch("--dify 1.16.1", "blocking", "id,text", "1,one", "2,[fail] two");
            repeat(settings, "2");

            finds("failed=1 lost=1 matches=1", settings);
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
            var settings = rows(app, version, mode, 5);
            var fourth = result("4").toString();
            var added = ((ObjectNode) result("5")).put("id", "new").toString();
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.put("id", "2");
                case "2" -> line.put("id", "1");
                default -> line;
            });
            append("results.jsonl", fourth + "\n" + added + "\n");

            var call = finds("duplicated=1 matches=3 without_run=3", settings);

            assertEquals(List.of("1", "2", "new"), ids(call, "without_run"));
            assertEquals(List.of("4"), ids(call, "duplicated"));
        }

        /// The line of another row stands before the row's own line, which counts.
        @Test
        void findsAnEditedIdThatALaterLineOverrules() throws Exception {
            var settings = rows("workflow", "1.16.1", "blocking", 3);
            damage(line -> line.path("id").asText().equals("1") ? line.put("id", "3") : line);
            var lines = results().stream().sorted(Comparator.comparing(line ->
                    line.path("id").asText().equals("3") && line.path("user").asText().equals(userOf("3")))).toList();
            Files.writeString(file("results.jsonl"), lines.stream().map(line -> line + "\n")
                    .collect(Collectors.joining()));

            var call = finds("lost=1 matches=2 without_run=1", settings);

            assertEquals(List.of("3"), ids(call, "without_run"));
            assertEquals(List.of("1"), ids(call, "lost"));
        }

        private String userOf(String id) {
            try {
                return user(id);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @ParameterizedTest
        @CsvSource({"1.9.2, blocking, 4", "1.9.2, streaming, 5", "1.14.2, streaming, 5", "1.16.1, blocking, 4",
                "1.16.1, streaming, 5"})
        void findsChangesInAChatflowsResults(String version, String mode, int differing) throws IOException {
            var settings = rows("chatflow", version, mode, 8);
            var other = result("8");
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("outputs", other.path("outputs"));
                case "2" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("text", "other"));
                case "3" -> line.set("inputs", ((ObjectNode) line.path("inputs")).put("query", "other"));
                case "4" -> line.set("outputs", ((ObjectNode) line.path("outputs")).put("more", 1));
                case "5" -> line.set("conversation_id", other.path("conversation_id"));
                case "6" -> line.put("message_id", UUID.randomUUID().toString());
                case "7" -> mode.equals("streaming") ? line.put("workflow_status", "partial-succeeded") : line;
                default -> line;
            });

            var call = finds("differs=" + differing + " matches=" + (6 - differing) + " without_run=2", settings);

            assertEquals(List.of("5", "6"), ids(call, "without_run"));
        }

        @Test
        void comparesInputsOfAColumnRenamedByMap() throws IOException {
            var settings = new Simulated("--dify", "1.16.1").settings();
            csv("id,words", "1,one", "2,two");
            call(settings, typed("run", "--map", "words=text")).exits(0);
            damage(line -> line.path("id").asText().equals("2")
                    ? line.set("inputs", ((ObjectNode) line.path("inputs")).put("words", "other")) : line);

            finds("differs=1 matches=1", settings);
        }

        @ParameterizedTest(name = "a list {0}")
        @CsvSource(delimiter = '|', textBlock = """
                of all users     | {'data':[{RUN,'created_by_end_user':{'session_id':'someone'}}]}
                without its data | {'total':1,'data':[]}
                with more        | {'has_more':true,'data':[]}
                without a name   | {'data':[{RUN,'created_by_end_user':null}]}
                as a page        | {}
                """)
        void countsRowsAsNotVerifiableIfDifyReturnsAnUnexpectedList(String name, String list) throws IOException {
            var server = dify();
            server.row("1", server.ended("succeeded", ""));
            server.row("2", server.ended("failed", "no"));
            rows(2);
            server.run("--retry-failed-runs", "never");
            server.server.stubFor(WireMock.get(WireMock.urlPathEqualTo("/v1/workflows/logs"))
                    .willReturn(server.answer(200, json(list.replace("RUN",
                            "'workflow_run':{'id':'run-9','status':'succeeded'}")))));
            detail(server, "run-1", "run-1");

            finds("matches=1 not_verifiable=2", server.settings()).exits(0);
        }

        private void detail(Dify server, String asked, String answered) {
            server.server.stubFor(WireMock.get(WireMock.urlEqualTo("/v1/workflows/run/" + asked)).willReturn(
                    server.answer(200, json("{'id':'%s','status':'succeeded','outputs':{'row_id':'1'}}", answered))));
        }

        @Test
        void countsRowsAsNotVerifiableIfDifyReturnsAWrongOrEmptyRun() throws IOException {
            var server = dify();
            rows(3);
            server.run().exits(0);
            detail(server, "run-1", "run-1");
            detail(server, "run-2", "run-1");
            server.server.stubFor(WireMock.get(WireMock.urlEqualTo("/v1/workflows/run/run-3"))
                    .willReturn(server.answer(200, "")));

            var call = finds("matches=1 not_verifiable=2", server.settings());

            assertEquals(List.of("2", "3"), ids(call, "not_verifiable"));
        }

        /// As Ctrl-C does in the shell: the requests in flight end at once, and no others start.
        @Test
        void endsAtAnInterrupt() throws Exception {
            var server = new Simulated("--latency", "10ms");
            rows(12);
            server.run().exits(0);
            server.app.breakRoute(SimulatedRoute.LIST, SimulatedRoute.Breakage.NO_RESPONSE, 0);
            var call = new FutureTask<>(() -> verify(server.settings()));
            var thread = Thread.ofPlatform().start(call);

            until("the first list is asked for", () -> server.app.brokenResponses() > 0);
            thread.interrupt();

            call.get().exits(130).showsNothing();
            assertTrue(server.app.brokenResponses() <= Verification.ROWS_AT_ONCE);
        }

        @Tag("slow")
        @Test
        void needsNoMemoryForResultsThatItDoesNotCheck() throws Exception {
            var server = new Simulated();
            rows(1);
            server.run().exits(0);
            var line = ((ObjectNode) result("1")).put("filler", "x".repeat(4_000)).put("id", "ID")
                    .put("workflow_run_id", UUID.randomUUID().toString()) + "\n";
            try (var results = Files.newBufferedWriter(file("results.jsonl"))) {
                for (int id = 1; id <= 20_000; id++) results.write(line.replace("ID", "" + id)); // 80 MB
            }

            var call = ended(start(server.settings("JDK_JAVA_OPTIONS", "-Xmx64m"), "verify", "-o", output(), "--json",
                    "--sample", "3")).exits(3);

            assertEquals(3, tree(call.out()).path("rows").asInt());
            assertEquals(3, ids(call, "without_run").size());
        }

        @Test
        void findsNumbersThatNoTypeCanHold() throws IOException {
            finds("matches=1", batch("--dify 1.16.1", "blocking", "id,text", "1,12e34567890123"));
        }
    }
}
