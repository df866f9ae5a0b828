package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import difyexec.FrozenBatch.Outcome;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Batches that earlier versions left, see [FrozenBatch]: every later version makes of them what theirs would have
/// made, or what a documented rule says now.
final class BatchesTest extends WholeCommand {
    /// A batch and the commands that follow.
    record Continuation(FrozenBatch batch, JsonNode next) {
        @Override
        public String toString() {
            return batch + ", " + FrozenBatch.age(next) + " later: " + next.path("commands");
        }

        /// The outcome with the batch's own version, or with the rule that has changed since.
        Outcome expected() {
            boolean isChanged = next.at("/later/inForce").asBoolean();
            return Outcome.of(isChanged ? next.at("/later/outcome") : next.path("outcome"));
        }

        /// Whether the user asks for rows that may have succeeded or may still succeed.
        boolean isTyped() {
            return next.path("commands").toString().matches(".*(--resend-unknown|--rerun-changed|retry \\d).*");
        }
    }

    private static List<FrozenBatch> batches() throws IOException {
        return FrozenBatch.in(checkout().resolve("tests/batches"));
    }

    static List<Continuation> continuations() throws IOException {
        return batches().stream().flatMap(batch -> batch.next().stream().map(next -> new Continuation(batch, next)))
                .toList();
    }

    /// Each batch with the first of its continuations.
    static List<Continuation> firstContinuations() throws IOException {
        return batches().stream().map(batch -> new Continuation(batch, batch.next().getFirst())).toList();
    }

    private final List<Call> calls = new ArrayList<>();

    private FrozenBatch.Said tool(Map<String, String> settings, String... args) throws IOException {
        calls.add(call(settings, args));
        return new FrozenBatch.Said(calls.getLast().code(), calls.getLast().out());
    }

    private Outcome follow(Continuation each, Consumer<Path> edit) throws Exception {
        return each.batch().follow(each.next(), folder, this::tool, edit);
    }

    /// Changes each line of the log.
    private static void rewrite(Path folder, UnaryOperator<String> change) {
        try (var files = Files.list(folder)) {
            for (var log : files.filter(file -> file.toString().contains(".log")).toList())
                Files.writeString(log, Files.readString(log).lines().map(change)
                        .collect(Collectors.joining("\n", "", "\n")));
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    @Nested
    class ABatchOfAnEarlierVersion {
        @Test
        void existsForEachWayInWhichASessionEnds() throws IOException {
            assertTrue(batches().size() >= 22, batches().toString());
        }

        /// A rule for ignored files may leave a log out of a clone.
        @Test
        void hasItsLog() throws IOException {
            for (var batch : batches()) try (var files = Files.list(batch.home())) {
                assertTrue(files.anyMatch(file -> file.toString().endsWith(".jsonl.log")), batch.toString());
            }
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.BatchesTest#continuations")
        void continuesAsItsOwnVersionWouldHaveContinued(Continuation each) throws Exception {
            var outcome = follow(each, _ -> {});

            assertEquals(each.expected(), outcome, () -> each.batch().text("about") + " " + each.next().path("later")
                    .path("rule").asText() + calls);
            assertEquals(Set.copyOf(outcome.sent()).size(), outcome.sent().size(), "a row was sent twice");
            if (!each.isTyped()) for (var id : outcome.sent())
                assertFalse(isPaid(each.batch(), id), () -> id + " may have succeeded, and was sent again");
        }

        /// Whether Dify knows a run of the row that succeeded or still may.
        private boolean isPaid(FrozenBatch batch, String id) throws IOException {
            var records = tree(Files.readString(batch.home().resolve(FrozenBatch.RECORDS)));
            for (var run : records.path("runs")) {
                boolean isOver = List.of("failed", "stopped").contains(run.path("status").asText());
                if (!isOver && tree(run.path("inputs").asText()).path("id").asText().equals(id)) return true;
            }
            for (var messages : records.path("messages")) for (var message : messages) {
                boolean isAnswered = !message.path("answer").asText().isEmpty();
                if (isAnswered && message.at("/inputs/id").asText().equals(id)) return true;
            }
            return false;
        }

        @Tag("slow")
        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.BatchesTest#firstContinuations")
        void continuesAlikeWithFieldsOfANewerMinorVersion(Continuation each) throws Exception {
            var outcome = follow(each, folder -> rewrite(folder, line ->
                    line.replaceFirst("}$", ",\"a_later_field\":{\"of\":[1,null]}}")));

            assertEquals(each.expected(), outcome, calls::toString);
            calls.forEach(call -> call.omits("cannot be read"));
        }

        /// A reader that cannot know what an event means may also reject the log, before anything is sent.
        @Tag("slow")
        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.BatchesTest#firstContinuations")
        void continuesAlikeOrIsRejectedWithEventsOfANewerMinorVersion(Continuation each) throws Exception {
            var outcome = follow(each, folder -> rewrite(folder, line -> line + "\n"
                    + line.replaceFirst("\"event\":\"[a-z]+\"", "\"event\":\"novelty\"")));

            if (calls.getFirst().code() == Exit.UNUSABLE.code) {
                calls.getFirst().reports(".log:2");
                assertEquals(List.of(), outcome.sent());
            } else assertEquals(each.expected(), outcome, calls::toString);
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.BatchesTest#firstContinuations")
        void isRejectedIfItsLogHasANewerFormat(Continuation each) throws Exception {
            var first = each.next().path("commands").path(0).asText();
            var command = FrozenBatch.words(first + " --demo", folder);
            try (var server = new FrozenBatch.Server(each.batch(), Duration.ofMinutes(1))) {
                each.batch().copyTo(folder, Duration.ofMinutes(1), server.url());
                rewrite(folder, line -> line.replaceFirst("\"format\":\\d+", "\"format\":" + (Event.FORMAT + 1)));
                var before = contents();

                var call = call(FrozenBatch.settings(server.url(), folder), command);

                call.exits(2).reports(".log", "" + (Event.FORMAT + 1)).hints("version");
                var after = contents();
                after.keySet().retainAll(before.keySet());
                assertEquals(before, after);
                assertEquals(List.of(), server.sent);
            }
        }
    }
}
