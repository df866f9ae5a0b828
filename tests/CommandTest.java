package difyexec;

import com.github.tomakehurst.wiremock.http.Fault;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static java.util.stream.Collectors.toMap;
import static org.junit.jupiter.api.Assertions.*;

/// Whole commands: exit code, output and files. Every call is searched for the key.
class CommandTest extends WholeCommand {
    private final Simulated dify = new Simulated("--latency", "10ms");

    // ── Demo ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ADemoRun {
        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void simulatesTheOutcomeMarkedInEachRow(String mode) throws IOException {
            csv("id,name,text", "9,Zoë,[fail] at first", "2,Bob,\"a, \"\"b\"\"\nあ😀\"", "7,İı,[flaky] then fine",
                    "x y,,plain", "1,Ann,[fail] as well",
                    "d,,[drop] me");

            var call = call(Map.of("INITIAL_RETRY_DELAY", "10ms"), typed("run", "--demo", "--mode", mode)).exits(3)
                    .showsNothing();

            assertTrue(call.err().startsWith("Demo: ") && call.err().lines().findFirst().orElseThrow().contains("\"text\""),
                    call.err());
            assertEquals(List.of("2", "7", "d", "x y"), ids());
            for (var line : results()) assertEquals(line.path("id"), line.path("outputs").path("row_id"));
            for (var line : results())
                assertEquals("Demo answer to: " + line.at("/inputs/text").asText(), line.at("/outputs/answer").asText());
            assertEquals("Demo answer to: a, \"b\"\nあ😀", result("2").path("outputs").path("answer").asText());
            assertEquals(Map.of("2", 0, "7", 1, "d", 0, "x y", 0), results().stream()
                    .collect(toMap(line -> line.path("id").asText(), line -> line.path("retry_count").asInt())));
            assertEquals("9\n1\n", content("results.jsonl.retry"), "in the order of the CSV");
            assertEquals("succeeded=4 failed=2", status());
            assertEquals(7, events("attempt").size());
            assertEquals(1, events("harvest").size(), "the run whose connection dropped was looked up");
            for (var attempt : events("attempt")) assertEquals(mode, attempt.path("mode").asText());
        }

        @Test
        void startsTheResultsWithAByteOrderMarkUnlessNoBomIsSet() throws IOException {
            csv("id,text", "1,x");
            call(Map.of(), typed("run", "--demo"));
            assertTrue(content("results.jsonl").startsWith("\uFEFF{"));
            assertEquals(1, content("results.jsonl").chars().filter(c -> c == 0xFEFF).count());

            call(Map.of(), typed("run", "--demo", "--fresh", "--no-bom"));

            assertTrue(content("results.jsonl").startsWith("{"));
        }
    }

    // ── Again ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ALaterSession {
        private void firstRun() throws IOException {
            csv("id,text", "1,a", "2,[fail]", "3,c", "4,[fail]");
            dify.run().exits(3);
            assertEquals(4, dify.runs());
        }

        @Test
        void sendsNothingIfTheBatchIsFinished() throws IOException {
            rows(2);
            dify.run();
            int requests = dify.requests.size();
            var before = content("results.jsonl");

            dify.run().exits(0);

            assertEquals(requests, dify.requests.size());
            assertEquals(before, content("results.jsonl"));
        }

        @Test
        void isRejectedAfterTheDemoOrAnotherServerEvenIfTheBatchIsFinished() throws IOException {
            rows(2);
            call(Map.of(), typed("run", "--demo")).exits(0);

            dify.run().exits(2).reports("--demo", dify.url()).hints("--demo");
            call(dify.settings(), typed("retry", "1")).exits(2).reports("--demo", dify.url());
            call(dify.settings(), "verify", "-o", output()).exits(2).reports("--demo", dify.url())
                    .omits("add --demo");

            call(dify.settings(), typed("run", "--fresh")).exits(0);
            call(dify.settings("DIFY_API_BASE_URL", "http://127.0.0.1:1/v1"), typed("run")).exits(2)
                    .reports(dify.url(), "http://127.0.0.1:1/v1");
        }

        /// A crash or an editor can leave such a list, and so can a row that was removed from the CSV.
        @Test
        void rewritesAnOutdatedRetryListEvenIfNoRowRuns() throws IOException {
            firstRun();
            Files.writeString(file("results.jsonl.retry"), "1\n3\n");

            dify.line("run --ids 1");

            assertEquals(4, dify.runs());
            assertEquals("2\n4\n", content("results.jsonl.retry"));
        }

        /// The list is written some time after a row has failed, and not every copy of a batch has it.
        @ParameterizedTest
        @CsvSource(nullValues = "none", textBlock = """
                none, the end of the session is in the log
                2,    killed
                """)
        void retriesAllFailedRowsIfTheRetryListMayBeOutdated(String list, String end) throws IOException {
            firstRun();
            Files.delete(file("results.jsonl.retry"));
            if (list != null) Files.writeString(file("results.jsonl.retry"), list + "\n");
            var log = content("results.jsonl.log").lines().toList();
            if (end.equals("killed")) replace("results.jsonl.log", log.getLast() + "\n", "");

            dify.command("retry").exits(0);

            assertEquals(List.of("2", "4"), attempts(2));
            assertEquals("succeeded=4", status());
        }

        @Test
        void suggestsRunForPendingRowsIfThereIsNothingToRetry() throws IOException {
            rows(3);
            dify.run("--limit", "1");

            dify.command("retry").exits(0).says("'run' runs the 2 pending rows");

            assertEquals(1, dify.runs());
        }

        @Test
        void retriesOnlyTheRowsOfTheRetryList() throws IOException {
            firstRun();
            Files.writeString(file("results.jsonl.retry"), "4\n");

            dify.command("retry").exits(0);

            assertEquals(List.of("4"), attempts(2));
            assertEquals("succeeded=3 failed=1", status());
            assertEquals("2\n", content("results.jsonl.retry"));
        }

        @Test
        void retriesASucceededRowOnlyWithForce() throws IOException {
            firstRun();

            dify.command("retry", "3").exits(2).reports("row 3 ").hints("--again");

            assertEquals(4, dify.runs());

            dify.command("retry", " 3", "--again").exits(0);

            assertEquals(5, dify.runs());
            assertEquals(List.of("1", "3", "3"), ids());
            assertEquals("succeeded=2 failed=2", status());
        }

        @Test
        void rejectsARetryThatWouldStartANewBatch() throws IOException {
            firstRun();

            dify.line("retry --fresh").exits(2).reports("--fresh");
            dify.line("retry 3 --fresh").exits(2).reports("--fresh");
            call(dify.settings(), "retry", "-i", input(), "-o", path("other.jsonl")).exits(2).reports("other.jsonl: ");

            assertFalse(Files.exists(file("other.jsonl.lock")));
            assertEquals(4, dify.runs());
            assertTrue(Files.exists(file("results.jsonl")));
        }

        @Test
        void keepsTheEarlierSuccessIfAForcedRetryFails() throws IOException {
            var dify = new Simulated("--seed", "2", "--fail", "50%"); // the second start fails
            rows(1);
            dify.run().exits(0);

            dify.command("retry", "1", "--again").exits(3);

            assertEquals("succeeded=1", status());
            assertEquals(List.of("1"), ids());
        }
    }

    // ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheStatusCommand {
        private Call status(String... more) throws IOException {
            return call(Map.of(), words(List.of("status", "-o", output()), more));
        }

        private void batch() throws IOException {
            csv("id,text", "1,[partial]", "2,[fail]", "3,[pause]", "4,d", "5,e");
            dify.run("--limit", "4");
            dify.server.close();
        }

        /// Without `-i`, a batch that is half done must not look as if it were complete.
        @Test
        void countsTheRowsOfTheCsvRecordedInTheLog() throws IOException {
            batch();

            assertEquals(5, tree(status("--json").out()).path("total").asInt());
            assertEquals(1, tree(status("--json").out()).path("pending").asInt());
            assertEquals("", status().err());

            Files.move(file("data.csv"), file("gone.csv"));
            var missing = status("--json");
            assertEquals(4, tree(missing.out()).path("total").asInt());
            assertTrue(missing.err().startsWith("Note: ") && missing.err().contains("data.csv"), missing.err());
            assertEquals(5, tree(status("--json", "-i", path("gone.csv")).out()).path("total").asInt());
        }

        @Test
        void suggestsACommandWithTheCsvForAnUnfinishedBatch() throws IOException {
            rows(3);
            dify.run("--limit", "2");

            var last = status().out().lines().toList().getLast();

            assertTrue(last.contains(" -i "), last);
        }

        @Test
        void createsAndChangesNoFile() throws IOException {
            batch();
            Files.delete(file("results.jsonl.lock"));
            var before = List.of(content("results.jsonl"), content("results.jsonl.log"), names());

            status("-i", input());

            assertEquals(before, List.of(content("results.jsonl"), content("results.jsonl.log"), names()));
        }
    }

    // ── What a row meets ────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ARow {
        private static final String SERVERS = """
                version, mode
                1.9.2,   blocking
                1.9.2,   streaming
                1.14.2,  blocking
                1.14.2,  streaming
                """;

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void isMarkedPartialAndNotRunAgainIfItSucceedsPartially(String version, String mode) throws IOException {
            var dify = new Simulated("--dify", version, "--latency", "10ms");
            csv("id,text", "1,a", "2,[partial]");

            dify.run("--mode", mode).exits(0);

            assertEquals("partial-succeeded", result("2").path("workflow_status").asText());
            assertEquals("{\"answer\":\"Answer to: [partial]\",\"row_id\":\"2\",\"text\":\"[partial]\"}",
                    result("2").path("outputs").toString());
            assertEquals("succeeded=1 partial=1", status());
            dify.run("--mode", mode).exits(0);
            assertEquals(2, dify.runs(), "a partial success is a success");
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = SERVERS)
        void usesUpNoRetryIfTheServerThrottlesIt(String version, String mode) throws IOException {
            var dify = new Simulated("--dify", version, "--latency", "10ms");
            csv("id,text", "1,a", "2,[throttle]", "3,c");

            dify.run("--mode", mode, "--max-retries", "0").exits(0).says("throttled 1 time");

            assertEquals(0, result("2").path("retry_count").asInt());
            assertEquals(4, dify.bodies("/run").size());
            assertEquals(1, events("throttle").size());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                when,      failure,  runs
                never,     [flaky!], 1
                transient, [flaky!], 2
                transient, [fail!],  1
                always,    [fail!],  2
                """)
        void isRunAgainAfterAFailureOnlyIfTheRetryOptionAllowsIt(String when, String failure, int runs)
                throws IOException {
            csv("id,text", "1," + failure);

            dify.run("--retry-failed-runs", when, "--max-retries", "1");

            assertEquals(runs, dify.runs());
        }

        /// The run of the first request appears once the row was sent again.
        @Test
        void causesAFinalNoteIfItsFirstRunAppearsAfterAResend() throws IOException {
            var dify = dify();
            rows(1);
            dify.row("1", aResponse().withFault(Fault.EMPTY_RESPONSE), dify.ended("succeeded", ""));
            dify.server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).atPriority(1)
                    .inScenario("scenario 1").whenScenarioStateIs("answer 2").willReturn(dify.logged("1")));
            dify.recorded("1", "running");

            var call = dify.run("--settle", "100ms").exits(3).omits("All rows succeeded");

            assertEquals("succeeded=1", status());
            assertEquals(1, events("late").size());
            assertTrue(call.err().lines().toList().getLast().contains("results.jsonl.log"), call.err());
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void keepsTheFirstReasonForItsUnknownOutcomeUntilAResend(String mode) throws IOException {
            var dify = new Simulated("--dify", "1.9.2", "--latency", "10ms");
            csv("id,text", "1,[lost]");

            for (int session = 1; session <= 3; session++)
                dify.run("--mode", mode, "--timeout", "300ms").exits(3)
                        .says("1 × unknown: the connection broke before a response");
            assertEquals("unknown=1", status());
            assertEquals("1\n", content("results.jsonl.retry"));
            assertEquals(1, dify.bodies("/run").size(), "never sent again automatically");

            dify.run("--mode", mode, "--timeout", "300ms", "--resend-unknown").exits(0);
            assertEquals(2, dify.bodies("/run").size());
        }

        @Test
        void isStoppedAndFailsAtItsTimeLimit() throws IOException {
            var dify = new Simulated("--latency", "10m");
            rows(1);

            call(dify.settings(), typed("run", "--mode", "streaming", "--timeout", "3")).exits(3).says("timed out");

            assertEquals("failed=1", status());
            assertEquals(1, dify.count("started"));
            assertEquals(1, dify.count("stops"));
        }
    }

    // ── Selections and limits ───────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ALimitedSession {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                rows | text       | limit                                | code | runs
                20   | [fail!]    | --max-failures 3                     | 4    | 3
                20   | text       | --max-tokens 45                      | 4    | 3
                20   | [partial!] | --max-cost 5 --mode streaming        | 4    | 10
                4    | text       | --max-cost 0.000108 --mode streaming | 0    | 4
                """)
        void endsAtItsLimitOfFailuresTokensOrCost(int rows, String text, String limit, int code, int runs)
                throws IOException {
            rows(rows);
            replace("data.csv", "text ", text + " ");

            var call = dify.line("run -c 1 " + limit).exits(code);

            assertEquals(code == 4, call.err().contains(limit.split(" ")[0]), call.err());
            assertEquals(runs, dify.runs());
        }

        @Test
        void countsTokensAndCostOfEarlierSessionsToo() throws IOException {
            rows(20);
            dify.run("--max-cost", "0.000081", "-c", "1").exits(4);
            assertEquals(3, dify.runs());

            dify.run("--max-cost", "0.000081", "-c", "1").exits(4).reports("0.000081 USD");

            dify.run("--max-tokens", "54", "-c", "1").exits(4);
            assertEquals(3, dify.runs(), "nothing more was sent");

            dify.run("--max-cost", "0.000162", "-c", "1").exits(4);
            assertEquals(6, dify.runs());
        }

        @ParameterizedTest
        @CsvSource({"auto, 20, 1", "auto, 9, 0", "blocking, 20, 0"})
        void suggestsStreamingModeOnceIfPricesAreUnknown(String mode, int rows, int notes) throws IOException {
            rows(rows);

            var said = call(dify.settings(), typed("run", "--mode", mode)).exits(0).notes();

            assertEquals(notes, said.stream().filter(note -> note.contains("--mode streaming")).count(),
                    said::toString);
        }

        /// Only workflows report no prices in blocking mode.
        @ParameterizedTest
        @CsvSource({"workflow, --mode blocking, 2, ", "workflow, --mode auto, 0, streaming",
                "chatflow, --mode blocking, 0, blocking", "chatflow, --mode auto --sample 1, 0, streaming"})
        void forcesStreamsOnlyForWorkflows(String app, String options, int code, String mode) throws IOException {
            var dify = new Simulated("--app", app, "--dify", "1.16.0", "--latency", "10ms");
            csv(header(app), "1,a");

            call(dify.settings(), typed("run", ("--max-cost 5 " + options).split(" "))).exits(code);

            assertEquals(mode == null ? 0 : 1, dify.count("started"));
            if (mode == null) return;
            assertEquals(mode, events("attempt").getFirst().path("mode").asText());
            assertTrue(results().getFirst().has("total_price"));
        }

        @Test
        void streamsAndStopsWithinOneRowOfItsCostLimit() throws IOException {
            rows(100);

            dify.run("--max-cost", "0.00054", "-c", "2").exits(4).says("--max-cost");

            int runs = results().size();
            assertTrue(runs >= 20 && runs <= 21, runs + " runs");
            assertEquals("succeeded=" + runs + " pending=" + (100 - runs), status());
            for (var attempt : events("attempt")) assertEquals("streaming", attempt.path("mode").asText());
        }

        @Test
        void reportsItsCostAndTheEstimatedCostOfTheRemainingRows() throws IOException {
            rows(120);

            var call = dify.run("--max-cost", "0.00054", "-c", "1")
                    .says("  tokens: 360\n", "  cost: 0.00054 USD\n");

            assertTrue(call.err().matches("(?s).*\nRemaining 100 rows: [^,]*, 1,800 tokens, 0.0027 USD\n.*"),
                    call.err());
        }

        @Test
        void stopsAtAPriceInAnotherCurrency() throws IOException {
            var dify = dify();
            rows(9);
            dify.rows(dify.paid("0.1", "RMB"));
            dify.row("1", dify.paid("0.1", "USD"));

            dify.run("--max-cost", "5", "-c", "1", "--mode", "streaming").exits(4).says("RMB and USD").hints();

            assertEquals(2, dify.runs());
        }

        @Test
        void waitsBetweenRowsOnRequest() throws IOException {
            rows(4);

            dify.run("--wait", "300ms").exits(0);

            var starts = events("attempt").stream()
                    .map(event -> Instant.parse(event.path("t").asText())).toList();
            assertTrue(Duration.between(starts.getFirst(), starts.getLast()).toMillis() >= 900);
        }
    }
}
