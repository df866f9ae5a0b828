///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Tries every sequence of events in the life of an attempt, and checks the rules that decide about it.
//SOURCES ../../DifyExec.java
//SOURCES Given.java
//SOURCES ExploredJob.java
//SOURCES ExploredWorld.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import difyexec.ExploredWorld.Rules;
import difyexec.ExploredWorld.Setting;
import picocli.CommandLine;
import picocli.CommandLine.*;

import module java.base;

import static difyexec.DifyExec.*;

/// Explores the rules that decide about an attempt: from each state of its life, every sequence of so many events. See
/// [ExploredWorld] for the states and events, and [ExploredJob] for the model of the server.
///
/// Checked are: no row is sent again, and none counts as failed, while a run of it may have succeeded or may still
/// succeed, by the model and not by the rules; each look-up leads to a decision; and from each state, a bounded wait
/// leads to an outcome or another attempt, whether the server answers or not.
///
/// States that are equal in all that can matter later are explored once. A sequence counts even if it leads to a state
/// that was explored before.
@Command(name = "explore", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Try every sequence of events from each state of an attempt, for each kind of app, mode and "
                + "release. Exit code 1 if a check fails, or if one of the planted wrong rules is not found.",
        footer = {"", "Example: benchmarks/explore --depth 4"})
final class Exploration implements Callable<Integer> {
    @Option(names = "--depth", paramLabel = "N", defaultValue = "6",
            description = "Try sequences of N events (default: ${DEFAULT-VALUE}).")
    int depth = 6;

    @Option(names = "--only", paramLabel = "WORD", defaultValue = "",
            description = "Only settings whose name contains WORD, such as 'chat 1.16.1'.")
    String only = "";

    @Option(names = "--planted", paramLabel = "N", defaultValue = "4",
            description = "Search with sequences of N events for planted rules (default: ${DEFAULT-VALUE}).")
    int planted = 4;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new Exploration()).execute(args));
    }

    @Override
    public Integer call() {
        long began = System.nanoTime();
        int failures = 0;
        for (var setting : Setting.all()) {
            if (!setting.toString().contains(only)) continue;
            var search = new Search(setting, Rules.OURS, depth);
            search.run();
            System.out.println(search);
            search.violations().forEach(System.out::println);
            failures += search.violations().size();
        }
        System.out.printf(Locale.ROOT, "%d violations, %.1f s%n", failures, (System.nanoTime() - began) / 1e9);
        for (var wrong : Rules.values()) {
            if (wrong == Rules.OURS || !only.isEmpty()) continue;
            var found = firstViolation(wrong, planted);
            System.out.println(wrong + ": " + found.orElse("not found"));
            if (found.isEmpty()) failures++;
        }
        return failures == 0 ? 0 : 1;
    }

    /// Searches in all settings with a wrong rule, until a check fails.
    static Optional<String> firstViolation(Rules wrong, int depth) {
        for (var setting : Setting.all()) {
            if (!wrong.concerns(setting)) continue;
            var search = new Search(setting, wrong, depth);
            search.most = 1;
            search.run();
            if (!search.violations().isEmpty()) return Optional.of(search.violations().getFirst());
        }
        return Optional.empty();
    }

    /// Explores one setting: first the states, each once, then how many sequences of events there are.
    static final class Search {
        /// One example of each violation is enough, and a wrong rule has thousands.
        private int most = 5;
        private final Setting setting;
        private final Rules rules;
        private final int depth;
        private final Map<String, State> states = new HashMap<>();
        private final SequencedMap<String, String> violations = new LinkedHashMap<>();
        private final List<State> starts = new ArrayList<>();
        private long sequences = 0;
        private boolean isFromRequest = false;

        /// A state, an event that leads to it, and the states that may follow.
        private static final class State {
            ExploredWorld world; // null once all that follows is known
            final State before;
            final String event;
            List<State> next;
            /// How many sequences of so many events follow, as far as they were counted.
            long[] counts = {};

            State(ExploredWorld world, State before, String event) {
                this.world = world;
                this.before = before;
                this.event = event;
            }

            String path() {
                return before == null ? event : before.path() + ", " + event;
            }
        }

        Search(Setting setting, Rules rules, int depth) {
            this.setting = setting;
            this.rules = rules;
            this.depth = depth;
        }

        void run() {
            findStarts();
            var edge = new ArrayList<>(starts);
            var seen = new HashSet<>(starts);
            for (int events = 0; events < depth; events++) {
                var further = new ArrayList<State>();
                for (var state : edge) {
                    for (var next : follow(state)) if (seen.add(next)) further.add(next);
                    if (violations.size() >= most) return;
                }
                edge = further;
            }
            for (var start : starts) sequences += count(start, depth);
        }

        /// Tries only the sequences that follow a request, for a test that takes seconds.
        Search fromRequest() {
            isFromRequest = true;
            return this;
        }

        /// Finds a state for each label, by events that lead to it.
        private void findStarts() {
            var labels = new HashSet<String>();
            var left = new ArrayDeque<>(List.of(state(new ExploredWorld(setting, rules), null, "sent")));
            while (!left.isEmpty() && violations.size() < most) { // bounded, because the labels are few
                var state = left.remove();
                if (state.world == null || !labels.add(state.world.label())) continue;
                if (starts.isEmpty() || !isFromRequest) starts.add(state);
                left.addAll(follow(state));
            }
        }

        private State state(ExploredWorld world, State before, String event) {
            return states.computeIfAbsent(world.key(), _ -> new State(world, before, event));
        }

        private List<State> follow(State state) {
            if (state.next != null) return state.next;
            state.next = new ArrayList<>();
            state.world.endlessWait().ifPresent(what -> violations.putIfAbsent(what, what + ": " + state.path()));
            for (var step : state.world.steps()) {
                if (step.isViolated()) violations.putIfAbsent(step.violation(), step.violation() + ": " + state.path()
                        + ", " + step.name());
                else state.next.add(state(step.next(), state, step.name()));
            }
            state.world = null;
            return state.next;
        }

        private long count(State state, int left) {
            if (left == 0) return 1;
            if (state.counts.length == 0) state.counts = new long[depth + 1];
            if (state.counts[left] > 0) return state.counts[left];
            long count = 0;
            for (var next : state.next) count += count(next, left - 1);
            return state.counts[left] = Math.max(1, count);
        }

        List<String> violations() {
            return violations.values().stream().map(text -> setting + ": " + text).toList();
        }

        long sequences() {
            return sequences;
        }

        @Override
        public String toString() {
            return String.format(Locale.ROOT, "%s: %,d states from %d beginnings, %,d sequences of %d events",
                    setting, states.size(), starts.size(), sequences, depth);
        }
    }
}
