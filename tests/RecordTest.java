package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// The log records what happened. Whatever becomes of the results, no row is sent again, and no wrong answer is used.
final class RecordTest extends WholeCommand {
    private static final int ROWS = 12;
    private static final String RESULTS = "results.jsonl", LOG = RESULTS + ".log";

    private Simulated dify;

    /// Runs all rows, and returns the lines of the results.
    private List<String> ran(String... options) throws IOException {
        dify = new Simulated("--dify", "1.16.1", "--latency", "5ms");
        rows(ROWS);
        dify.run(options).exits(0);
        return lines();
    }

    private List<String> lines() throws IOException {
        return content(RESULTS).replace("\uFEFF", "").lines().toList();
    }

    private void write(List<String> lines) throws IOException {
        Files.writeString(file(RESULTS), "\uFEFF" + String.join("\n", lines) + "\n");
    }

    private String id(String line) {
        return Given.tree(line).path("id").asText();
    }

    /// Returns the answers of the exported table by id, with the status before each.
    private Map<String, String> exported(int exit) throws IOException {
        ofBatch("export", path("out.csv"), "--force").exits(exit);
        var answers = new TreeMap<String, String>();
        var table = content("out.csv").replace("\uFEFF", "").lines().map(line -> List.of(line.split(","))).toList();
        int status = table.getFirst().indexOf("status"), answer = table.getFirst().indexOf("output.answer");
        for (var row : table.subList(1, table.size()))
            answers.put(row.getFirst(), row.get(status) + " " + (answer < 0 ? "" : row.get(answer)));
        return answers;
    }

    /// Checks that these rows are fetched again, that nothing is sent, and that all is well afterwards.
    ///
    /// @param verified the exit code of `verify` then, which still finds a line with an id that no row has
    private void fetchesAgain(Set<String> lost, Map<String, String> right, int verified) throws IOException {
        var shown = exported(lost.isEmpty() ? 0 : 3);
        for (var id : right.keySet())
            assertEquals(lost.contains(id) ? "missing " : right.get(id), shown.get(id), "row " + id);
        var status = Given.tree(ofBatch("status", "--json").exits(lost.isEmpty() ? 0 : 3).out());
        assertEquals(lost.size(), status.path("lost_results").asInt());
        if (!lost.isEmpty()) call(dify.settings(), "verify", "-o", output()).exits(3);

        var again = dify.run().exits(0);

        assertEquals(ROWS, dify.runs(), () -> "sent again: " + again);
        assertEquals(right, exported(0));
        assertEquals(ROWS, Given.tree(ofBatch("status", "--json").exits(0).out()).path("succeeded").asInt());
        dify.run().exits(0).says("Nothing to do");
        call(dify.settings(), "verify", "-o", output()).exits(verified);
    }

    @Nested
    class ResultsThatWereChanged {
        static final Map<String, UnaryOperator<List<String>>> HARMLESS = Map.of(
                "sorted in reverse", List::reversed,
                "with CR LF", lines -> lines.stream().map(line -> line + "\r").toList(),
                "doubled", lines -> Stream.concat(lines.stream(), lines.stream()).toList(),
                "with empty lines", lines -> lines.stream().flatMap(line -> Stream.of(line, "")).toList(),
                "written by another program", lines -> lines.stream().map(line -> Json.text(Given.tree(line))
                        .replace(",\"", ", \"").replace("text", "te\\u0078t")).toList());

        static Set<String> harmless() {
            return HARMLESS.keySet();
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("harmless")
        void areStillWhatTheLogRecords(String harmless) throws IOException {
            var lines = ran();
            var right = exported(0);

            write(HARMLESS.get(harmless).apply(lines));

            fetchesAgain(Set.of(), right, 0);
        }

        @Test
        void areStillWhatTheLogRecordsWithoutTheirByteOrderMark() throws IOException {
            var lines = ran();
            var right = exported(0);

            Files.writeString(file(RESULTS), String.join("\n", lines) + "\n");

            fetchesAgain(Set.of(), right, 0);
        }

        /// At every line: an answer edited, the line deleted, the answers of two rows swapped, an id changed, and the
        /// file cut there.
        @ParameterizedTest
        @ValueSource(strings = {"edited", "deleted", "swapped", "renamed", "cut", "torn"})
        void areFetchedAgain(String how) throws IOException {
            var lines = ran();
            var right = exported(0);
            var log = content(LOG);
            for (int at = 0; at < ROWS; at++) {
                var changed = new ArrayList<>(lines);
                var line = lines.get(at);
                var other = (at + 1) % ROWS;
                var lost = new TreeSet<>(Set.of(id(line)));
                switch (how) {
                    case "edited" -> changed.set(at, line.replace("Answer to: ", "Wrong: "));
                    case "deleted" -> changed.remove(at);
                    case "swapped" -> {
                        changed.set(at, withOutputs(line, lines.get(other)));
                        changed.set(other, withOutputs(lines.get(other), line));
                        lost.add(id(lines.get(other)));
                    }
                    case "renamed" -> changed.set(at, line.replace("{\"id\":\"" + id(line) + "\"", "{\"id\":\"99\""));
                    case "cut" -> {
                        changed.subList(at, ROWS).clear();
                        lines.subList(at, ROWS).forEach(gone -> lost.add(id(gone)));
                    }
                    case "torn" -> changed.set(at, line.substring(0, line.length() / 2));
                }
                write(changed);
                fetchesAgain(lost, right, how.equals("renamed") ? 3 : 0);
                Files.writeString(file(LOG), log);
            }
        }

        private static String withOutputs(String line, String other) {
            var json = (com.fasterxml.jackson.databind.node.ObjectNode) Given.tree(line);
            json.set("outputs", Given.tree(other).path("outputs"));
            return Json.text(json);
        }
    }

    @Nested
    class ForeignResults {
        /// The results of another batch with the same ids, and an older copy of the log.
        @ParameterizedTest
        @ValueSource(strings = {"other results", "older log"})
        void areRefusedBeforeAnythingIsSent(String how) throws IOException {
            ran("--limit", "5");
            var log = content(LOG);
            if (how.equals("older log")) {
                dify.run().exits(0);
                Files.writeString(file(LOG), log);
            } else {
                call(dify.settings(), "run", "-i", input(), "-o", path("other.jsonl"), "--progress", "off").exits(0);
                Files.copy(file("other.jsonl"), file(RESULTS), StandardCopyOption.REPLACE_EXISTING);
            }
            int sent = dify.runs();

            for (var command : List.of("run", "retry"))
                dify.command(command).exits(2).reports(LOG, RESULTS + ":").hints("restore the log", "-o");

            assertEquals(sent, dify.runs());
            ofBatch("status").exits(3).mentions(RESULTS + ":");
            ofBatch("export", path("out.csv")).exits(3).says(RESULTS + ":");
            call(dify.settings(), "verify", "-o", output()).exits(3);
        }
    }

    @Nested
    class RunsOfARowThatHasAResult {
        @Test
        void areCollectedAfterAKill() throws IOException {
            var before = ran();
            dify.command("retry", "--again", "3").exits(0);
            // as if the process was killed before the second run ended
            var log = new ArrayList<>(content(LOG).lines().toList());
            int attempt = IntStream.range(0, log.size()).filter(at -> log.get(at).contains("\"event\":\"attempt\""))
                    .max().orElseThrow();
            Files.writeString(file(LOG), String.join("\n", log.subList(0, attempt + 1)) + "\n");
            write(before);
            assertEquals(1, Given.tree(ofBatch("status", "--json").out()).path("in_flight").asInt());
            int sent = dify.runs();

            dify.run().exits(0);

            assertEquals(sent, dify.runs());
            assertEquals(ROWS + 1, results().size());
            assertEquals(0, Given.tree(ofBatch("status", "--json").out()).path("in_flight").asInt());
            dify.run().says("Nothing to do");
        }

        /// A second run was about to be sent when the process was killed. It does not replace the success before it, and
        /// the row is not sent, because that success can be fetched.
        @Test
        void doNotMakeItsLostResultWorthless() throws IOException {
            ran();
            var right = exported(0);
            var attempt = content(LOG).lines().filter(line -> line.contains("\"event\":\"attempt\"")
                    && line.contains("\"id\":\"3\"")).findFirst().orElseThrow();
            Files.writeString(file(LOG), attempt.replaceFirst("(\"user\":\"[^\"]*)", "$1-again") + "\n",
                    StandardOpenOption.APPEND);
            write(lines().stream().filter(line -> !id(line).equals("3")).toList());
            assertEquals("missing ", exported(3).get("3"));

            dify.run("--settle", "1s").exits(0);

            assertEquals(right, exported(0));
            dify.run("--settle", "1s").exits(0);
            assertEquals(ROWS, dify.runs());
            assertEquals(right, exported(0));
        }
    }

    @Nested
    class ResultsOfTheOriginalTool {
        /// They have no user, so nothing but the row's id tells their ends apart.
        @ParameterizedTest
        @ValueSource(strings = {"4", "4 5", "4 5 6"})
        void areMissedOneByOne(String lost) throws IOException {
            dify = new Simulated("--dify", "1.16.1", "--latency", "5ms");
            rows(ROWS);
            Files.writeString(file(RESULTS), "\uFEFF" + IntStream.rangeClosed(1, ROWS - 1).mapToObj(id ->
                    Given.json("{'id':'%d','status':'success','inputs':{'id':'%<d'},'outputs':{'answer':'old %<d'},"
                            + "'workflow_run_id':'run-%<d'}", id)).collect(Collectors.joining("\n", "", "\n")));
            dify.run().exits(0);
            assertEquals(1, dify.runs());
            var right = exported(0);
            write(lines().stream().filter(line -> !List.of(lost.split(" ")).contains(id(line))).toList());

            var shown = exported(3);
            dify.run("--timeout", "1s").exits(3);

            assertEquals(1, dify.runs());
            for (var id : right.keySet())
                assertEquals(List.of(lost.split(" ")).contains(id) ? "missing " : right.get(id), shown.get(id));
            for (var id : lost.split(" ")) assertEquals(Set.of("run-" + id), events("end").stream()
                    .filter(end -> end.path("id").asText().equals(id)).map(end -> end.path("run").asText())
                    .collect(Collectors.toSet()));
        }
    }

    @Nested
    class AResultWithoutItsEnd {
        /// As after a crash between the two files.
        @Test
        void isRecordedByTheNextSession() throws IOException {
            ran();
            var right = exported(0);
            var log = content(LOG).lines().filter(line -> !line.contains("crc32c") || !line.contains("\"id\":\"7\""))
                    .collect(Collectors.joining("\n", "", "\n"));
            Files.writeString(file(LOG), log);
            assertEquals(right, exported(0));

            dify.run().exits(0).says("Nothing to do");

            assertEquals(ROWS, events("end").size());
            assertEquals(right, exported(0));
            replace(RESULTS, "Answer to: text 7", "Wrong: text 7");
            fetchesAgain(Set.of("7"), right, 0);
        }
    }

    @Nested
    class RowsThatHaveChanged {
        /// A column that only the first session sent.
        @Test
        void areComparedByWhatTheirOwnSessionSent() throws IOException {
            dify = new Simulated("--dify", "1.16.1", "--latency", "5ms");
            csv("id,text,extra", "1,one,a", "2,two,b", "3,three,c", "4,four,d", "5,five,e");
            dify.run("--no-check", "--limit", "4").exits(0);
            dify.run("--allow-unmapped").exits(0);
            csv("id,text,extra", "1,one,x", "2,two,b", "3,three,c", "4,four,d", "5,five,y");

            ofBatch("export", path("out.csv")).exits(3);

            var changed = content("out.csv").lines().filter(line -> line.contains("changed")).toList();
            assertEquals(1, changed.size(), changed::toString);
            assertTrue(changed.getFirst().startsWith("1,"), changed::toString);
        }
    }

    @Nested
    class ACopyOfARunningBatch {
        @Test
        void isNotContinued() throws IOException {
            ran("--limit", "5");
            var own = ProcessHandle.current().parent().orElseThrow();
            var log = content(LOG).lines().filter(line -> !line.contains("\"event\":\"stop\"")).map(line ->
                    line.replaceFirst("\"process\":\\{[^}]*}", "\"process\":{\"id\":" + own.pid() + ",\"started\":\""
                            + own.info().startInstant().orElseThrow() + "\"}")).collect(Collectors.joining("\n", "", "\n"));
            Files.writeString(file(LOG), log);

            dify.run().exits(2).reports(LOG, "copy");

            assertEquals(5, dify.runs());
        }

        /// A container may leave a killed process in the system's list.
        @Test
        void isContinuedIfTheProcessHasEnded() throws Exception {
            Assumptions.assumeTrue(Files.isDirectory(Path.of("/proc")));
            var parent = new ProcessBuilder("sh", "-c", "sleep 0 & echo $!; exec sleep 60").start();
            try (var out = parent.inputReader()) {
                long child = Long.parseLong(out.readLine());
                until("the end of the child", () -> Files.readString(Path.of("/proc/" + child + "/stat")).contains(") Z "));
                var started = ProcessHandle.of(child).flatMap(process -> process.info().startInstant()).orElseThrow();

                assertFalse(new Event.SessionEvent.ProcessKey(child, started).isOtherAlive());
                assertTrue(new Event.SessionEvent.ProcessKey(parent.pid(), parent.info().startInstant().orElseThrow())
                        .isOtherAlive());
            } finally {
                parent.destroyForcibly();
            }
        }
    }
}
